"""Every plan score keeps one contract: a number for each plan of each state, and how it changes."""

import pytest
import torch

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.config.component_settings import states_fact
from worldmodel.policy.goals import Goal, PixelGoal
from worldmodel.policy.planners import HasGradient
from worldmodel.policy.planners.proposals import Box
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state

SPACE = ActionSpace(2)
BATCH, COUNT, HORIZON = 3, 4, 5

OWN = {
    "goal_distance": ("goal.image=there.png",),
    "pixel_distance": (
        *("model.dynamics=pixels", "loss.objective={}", "goal.designated=[[9, 20], [4, 4]]"),
        *("goal.pixels=[[9, 21], [5, 4]]", "run.precision=fp32"),
    ),
}
PIXELS = [k for k, v in registry.PLAN_SCORES.items() if states_fact(v, "aims_at_pixels")]
LATENT = sorted({*registry.PLAN_SCORES} - {*PIXELS})  # there are no heads on pixels


def score_of(name, *overrides):
    """A score of states that differ, by a model that has learnt nothing."""
    c = loading.parse(
        [
            "debug",
            "model.latent=deterministic",
            f"planner.score={name}",
            *OWN.get(name, ()),
            *overrides,
        ]
    )
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    policy = build.make_policy(c, model, SPACE)
    state = map_state(model.dynamics.initial(BATCH), lambda v: v + torch.randn_like(v))
    there = Goal(
        {"image": torch.randint(256, (1, 1, 32, 32, 3), dtype=torch.uint8)}, "belief", "end"
    )
    if name in PIXELS:
        there = PixelGoal(torch.tensor([[[9, 20], [4, 4]]]), torch.tensor([[[9, 21], [5, 4]]]))
    make = build.make_plan_score(c, policy, lambda: there)
    return make(model, state, torch.Generator().manual_seed(0)), lambda i: make(
        model, map_state(state, lambda v: v[i : i + 1]), torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("name", registry.PLAN_SCORES)
@torch.no_grad()
def test_every_plan_of_every_state_gets_a_number_of_its_own(name):
    score, alone = score_of(name)
    plans = torch.rand(BATCH, COUNT, HORIZON, 2) * 2 - 1
    found = score(plans)
    assert found.shape == (BATCH, COUNT) and torch.isfinite(found).all()
    assert len(found.unique()) == BATCH * COUNT
    for i in range(BATCH):
        torch.testing.assert_close(alone(i)(plans[i : i + 1]), found[i : i + 1])
    swapped = score(plans.flip(1))
    torch.testing.assert_close(swapped.flip(1), found)


@pytest.mark.parametrize("particles", [0, 2])
@pytest.mark.parametrize("name", LATENT)
@torch.no_grad()
def test_pessimism_takes_the_heads_disagreement_from_each_step(name, particles):
    keys = ("ensemble.size=3", "planner.discount=0.9", f"planner.particles={particles}")
    plain, _ = score_of(name, *keys)
    cautious, _ = score_of(name, *keys, "planner.pessimism=0.5")
    plans = torch.rand(BATCH, COUNT, HORIZON, 2) * 2 - 1
    model = plain.model
    state = map_state(plain.state, lambda v: v.repeat_interleave(COUNT, 0))
    lost = torch.zeros(BATCH * COUNT)
    for t, action in enumerate(plans.flatten(0, 1).unbind(1)):
        share = 1.0 if name == "goal_distance" else 0.9**t
        doubt = model.measure_disagreement(model.dynamics.features(state), action)
        lost += 0.5 * share * doubt
        state = model.dynamics.imagine_step(state, action)
    found = (plain(plans) - cautious(plans)).flatten()
    torch.testing.assert_close(found, lost, rtol=1e-3, atol=1e-6)
    assert lost.min() > 0.01 and lost.std() > 1e-3, "plans differ"


@pytest.mark.parametrize("planner", registry.PLANNERS)
@torch.no_grad()
def test_every_planner_keeps_to_what_the_heads_agree_on(planner):
    """Heads that disagree about pushes to the right, and a model without rewards."""
    score, _ = score_of("reward", "ensemble.size=2", "planner.pessimism=1")
    score.model.reward.net.out.weight.zero_()
    score.model.ensemble.predict = lambda feat, action: torch.stack(
        [action[..., :1], torch.full_like(action[..., :1], -1.0)]
    )
    c = loading.parse(["debug", f"planner.name={planner}", "planner.candidates=64"])
    proposal = Box()
    mean, std = proposal.start(BATCH, HORIZON, 2)
    plan = build.make_planner(c.planner)(
        score, mean, std, proposal, torch.Generator().manual_seed(0)
    )
    assert plan[..., 0].mean() < -0.2  # they agree at -1


@pytest.mark.parametrize("name", registry.PLAN_SCORES)
@torch.no_grad()
def test_a_score_tells_planners_that_ask_how_it_changes_with_the_plan(name):
    """Finite differences, under no_grad as when an agent acts."""
    score, _ = score_of(name)
    assert isinstance(score, HasGradient) and not isinstance(lambda plans: plans, HasGradient)
    plans = torch.rand(BATCH, COUNT, HORIZON, 2)
    values, gradient = score.score_with_gradient(plans)
    torch.testing.assert_close(values, score(plans))
    assert gradient.shape == plans.shape and not values.requires_grad
    for index in ((0, 0, 0, 0), (1, 2, 3, 1), (2, 0, 2, 1)):
        more, less = plans.clone(), plans.clone()
        more[index] += 0.02
        less[index] -= 0.02
        slope = (score(more) - score(less))[index[:2]] / 0.04
        assert slope.abs() > 1e-5
        torch.testing.assert_close(gradient[index], slope, rtol=0.02, atol=1e-6)
