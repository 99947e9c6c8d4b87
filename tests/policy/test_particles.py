"""What several rollouts of a plan are worth: means, variances between members, and propagation."""

import pytest
import torch

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.config.component_settings import states_fact
from worldmodel.policy.plan_scores.particles import Particles
from worldmodel.policy.planners.proposals import Box
from worldmodel.spaces import ActionSpace, ObservationSpace


class Team:
    """Three members; all that a particle needs to know."""

    members = 3


def test_particles_of_one_member_are_averaged_before_the_variance_between_members():
    returns = torch.tensor(
        [[1.0, 10.0], [3.0, 10.0], [2.0, 10.0], [2.0, 10.0], [6.0, 10.0], [4.0, 10.0]]
    )
    flat = returns.flatten()  # six particles of two plans: members 0 0 1 1 2 2
    mean = returns.mean(0)
    torch.testing.assert_close(Particles(6).combine(Team, flat), mean)
    members = torch.tensor([2.0, 2.0, 5.0])  # of the first plan
    penalty = torch.tensor([members.var(correction=0).item(), 0.0])
    found = Particles(6, "tsinf", 0.5).combine(Team, flat)
    torch.testing.assert_close(found, mean - 0.5 * penalty)
    optimistic = Particles(6, "tsinf", -0.5).combine(Team, flat)
    torch.testing.assert_close(optimistic, mean + 0.5 * penalty)
    single = Particles(6, "ts1", 0.5).combine(Team, flat)
    torch.testing.assert_close(single, mean - 0.5 * returns.var(0, correction=0))


def test_states_and_plans_are_laid_out_particle_by_particle():
    state = {"deter": torch.tensor([[1.0], [2.0]])}
    plans = torch.arange(8.0).view(4, 2, 1)  # two plans of each of two states
    particles = Particles(6)
    start = particles.repeat_states(Team, state, 2)
    assert start["deter"].flatten().tolist() == [1, 1, 2, 2] * 6
    assert start["member"].view(6, 4).tolist() == [[p // 2] * 4 for p in range(6)]
    assert torch.equal(particles.repeat_plans(Team, plans).view(6, 4, 2, 1)[5], plans)
    redrawn = Particles(6, "ts1").repeat_states(Team, state, 2)
    assert "member" not in redrawn and "redraw" in redrawn
    assert set(Particles(1).repeat_states(Team, state, 2)) == {"deter"}
    imagined = {**state, "member": torch.tensor([2.0, 2.0])}  # which a plan does not know
    assert Particles(6, "ts1").repeat_states(Team, imagined, 2).keys() == redrawn.keys()
    again = particles.repeat_states(Team, imagined, 2)
    assert torch.equal(again["member"], start["member"])


class Biased:
    """Members that agree on no reward for actions below 0, and quarrel about one above."""

    def __init__(self, model):
        self.dynamics = model.dynamics

    def predict_for_planning(self, feat):
        return feat[..., 0], torch.ones_like(feat[..., 0])


# What each member expects of positive actions: a gain on average, or a loss.
OVERRATED, UNDERRATED = [0.30, -0.05, 0.20, -0.05], [0.10, -0.30, 0.05, -0.35]
# iLQR sees no separate rollouts, and refuses what needs them.
PLANNERS = [
    name
    for name, place in registry.PLANNERS.items()
    if not states_fact(place, "needs_predicted_features")
]


def make_score(pessimism, particles=0, propagation="tsinf", gains=OVERRATED):
    torch.manual_seed(0)
    c = loading.parse(
        [
            "model.dynamics=mlp",
            "env.obs=state",
            "loss.objective={}",
            "loss.overshooting=1",
            "mlp.noise=none",
            "mlp.layers=1",
            "mlp.units=1",
            "ensemble.size=4",
            "ensemble.of=dynamics",
            f"planner.pessimism={pessimism}",
            f"planner.particles={particles}",
            f"planner.propagation={propagation}",
        ]
    )
    model = build.make_model(c, ObservationSpace({"vector": 1}), ActionSpace(1))
    net = model.dynamics.net
    with torch.no_grad():  # silu(20 a) is about 20 a for a > 0 and 0 below
        net.hidden[0].weight.copy_(torch.tensor([0.0, 20.0]).view(1, 2, 1))
        net.hidden[0].bias.zero_()
        net.out.weight.zero_()
        net.out.weight[:, 0, 0] = torch.tensor(gains)
        net.out.bias.zero_()
    make = build.make_plan_score(c, None, None)
    state = {"vector": torch.zeros(1, 1)}
    return make(Biased(model), state, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("propagation", ["tsinf", "ts1"])
@pytest.mark.parametrize(
    ("gains", "pessimism", "risky"),
    [
        (OVERRATED, 0.0, True),
        (OVERRATED, 1.0, False),
        (UNDERRATED, 0.0, False),
        (UNDERRATED, -1.0, True),
    ],
)
@pytest.mark.parametrize("name", PLANNERS)
def test_pessimism_takes_the_plan_that_all_members_agree_on(
    name, gains, pessimism, risky, propagation
):
    """The mean over members prefers the action that some overrate, and pessimism does not; it
    avoids the action that most underrate, and optimism does not.
    """

    def make():
        return make_score(pessimism, 64, propagation, gains)

    plans = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 3, 1)
    scores = make()(plans)[0]
    assert bool(scores[0] > scores[1]) == risky
    keys = {"candidates": 128, "iterations": 8, "elites": 16, "rate": 0.2}
    c = loading.parse(
        ["debug", f"planner.name={name}", *(f"planner.{k}={v}" for k, v in keys.items())]
    )
    mean, std = Box().start(1, 3, 1)
    generator = torch.Generator().manual_seed(1)
    found = build.make_planner(c.planner)(make(), mean, std, Box(), generator)
    above = found.clamp(min=0).mean()
    assert above > 0.5 if risky else above < 0.1


def test_a_rollout_that_changes_its_member_averages_over_them():
    """Linear rewards: TS-1 and TS-infinity agree in the mean, TS-1 varies less between rollouts."""
    plans = torch.ones(1, 1, 8, 1)
    kept, changed = (make_score(0.0, 400, name) for name in ("tsinf", "ts1"))
    torch.testing.assert_close(kept(plans), changed(plans), rtol=0.1, atol=0.1)
    cautious = [make_score(1.0, 400, name)(plans) for name in ("tsinf", "ts1")]
    assert cautious[1] > cautious[0]  # less variance, less penalty
