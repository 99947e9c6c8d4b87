"""Every plan score keeps one contract: a number for each plan of each state, and how it changes."""

import pytest
import torch

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.policy.goals import Goal
from worldmodel.policy.planners import HasGradient
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state

SPACE = ActionSpace(2)
BATCH, COUNT, HORIZON = 3, 4, 5


def score_of(name, *overrides):
    """A score of states that differ, by a model that has learnt nothing."""
    goal = ("goal.image=there.png",) if name == "goal_distance" else ()
    c = loading.parse(
        ["debug", "model.latent=deterministic", f"planner.score={name}", *goal, *overrides]
    )
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    policy = build.make_policy(c, model, SPACE)
    state = map_state(model.dynamics.initial(BATCH), lambda v: v + torch.randn_like(v))
    there = Goal(
        {"image": torch.randint(256, (1, 1, 32, 32, 3), dtype=torch.uint8)}, "belief", "end"
    )
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
