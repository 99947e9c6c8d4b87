"""Plan2Explore: the explorer's reward, who acts when, and what neither teaches the model."""

import pytest
import torch
from test_actor_critic import Known, random_batch, reached

from worldmodel import build
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.actor_critic import Actor
from worldmodel.policy.plan2explore import Explorer
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

EXPLORE = [
    "behavior.name=plan2explore",
    "ensemble.size=3",
    "ensemble.units=8",
    "loss.reward_free=true",
    "critic.replay=0",
    "behavior.noise=0",
]


def make(*overrides):
    c = loading.parse(["debug", *EXPLORE, *overrides])
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(2))
    policy = build.make_policy(c, model, ActionSpace(2))
    for part in (policy.task, policy.explorer):  # fresh actors ignore what they see
        torch.nn.init.normal_(part.actor.net.out.weight, std=0.3)
    return c, model, policy, build.make_behavior(c, model, ActionSpace(2), policy)


class Doubted(Known):
    """Each step moves by the action. The members agree where x is below zero, and the further
    above, the less; the task pays for going down.
    """

    def __init__(self):
        super().__init__(
            lambda x, u, state: (x + 0.5 * u.clamp(-1, 1), -x[..., 0]),
            lambda s: s["stoch"][..., 0],
            lambda s: torch.ones_like(s["stoch"][..., 0]),
        )

    measure_rollout_disagreement = WorldModel.measure_rollout_disagreement

    def measure_disagreement(self, feat, action):
        return torch.nn.functional.softplus(4 * feat[..., 0] + 2 * action[..., 0]) + 0.01


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_the_explorer_goes_where_the_members_disagree_and_the_task_is_another(gradient):
    keys = [f"actor.gradient={gradient}", "imag.horizon=5", "critic.slow=none", "critic.pull=0"]
    c = loading.parse(["debug", *EXPLORE, *keys])
    torch.manual_seed(0)
    critic = build.SCALAR_HEADS[c.critic.head](1, 0, 1, c.model.bins)
    explorer = Explorer(Actor(1, ActionSpace(1), 0, 1, c.actor), critic, c.imag, c.critic)
    optimizer = torch.optim.Adam(explorer.parameters(), 0.03)
    for _ in range(60):
        x = torch.randn(1, 64, 1)
        post = {"deter": x, "stoch": torch.zeros(1, 64, 1)}
        losses, metrics = explorer.losses(Doubted(), {"is_terminal": torch.zeros(1, 64)}, post, x)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert explorer.choose(torch.zeros(1, 1)).mode().item() > 0.5


def test_the_reward_is_the_log_of_the_mean_spread_of_the_members():
    _, model, policy, _ = make()
    feat = torch.randn(4, 6, model.dynamics.feature_size)
    action = torch.rand(3, 6, 2) * 2 - 1
    found = policy.explorer.compute_rewards(
        model, torch.full((3, 6), 9.0), feat[:-1], feat[1:], action
    )
    members = model.predict_members(feat[:-1], action)
    by_hand = members.std(0, correction=0).mean(-1).log()
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("collect", ["explorer", "task"])
def test_the_explorer_collects_and_the_task_actor_is_tested(collect):
    _, model, policy, behavior = make(f"plan2explore.collect={collect}")
    state = {k: torch.randn(5, *v.shape[1:]) for k, v in model.dynamics.initial(1).items()}
    feat, first = model.dynamics.features(state), torch.zeros(5, dtype=torch.bool)

    def act(mode):
        return behavior.act(state, {}, first, mode, torch.Generator().manual_seed(0))[0]

    collecting = policy.explorer if collect == "explorer" else policy.task
    drawn = collecting.actor(feat).sample(torch.Generator().manual_seed(0)).clamp(-1, 1)
    torch.testing.assert_close(act("train"), drawn)
    torch.testing.assert_close(act("eval"), policy.task.actor(feat).mode().clamp(-1, 1))


def test_both_actor_critics_learn_and_the_model_learns_nothing_from_them():
    c, model, policy, _ = make("imag.horizon=4", "loss.overshooting=1")
    for part in (policy.task, policy.explorer):  # a fresh critic passes no gradient on
        torch.nn.init.normal_(part.critic.net.out.weight, std=0.3)
    batch = random_batch()
    batch["image"] = torch.zeros(3, 7, 32, 32, 3, dtype=torch.uint8)
    _, _, post, feat = model.loss(batch)
    losses, metrics = policy.losses(model, batch, post, feat)
    assert {"actor", "critic", "explorer_actor", "explorer_critic"} == losses.keys()
    assert metrics["explorer_imag_reward"] != metrics["imag_reward"]
    sum(losses.values()).backward()
    assert all(reached(part) for part, _ in policy.list_parts().values()) and not reached(model)
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy)
    before = [p.clone() for p in policy.explorer.slow.parameters()]
    for _ in range(2):
        learner.update(batch)
    after = policy.explorer.slow.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_what_explores_needs_an_ensemble_and_an_explorer():
    with pytest.raises(loading.ConfigError) as caught:
        loading.parse(["behavior.name=plan2explore"])
    assert [p.partition(":")[0] for p in caught.value.problems] == [
        "behavior.name",
        "critic.replay",
    ]
    c, model, *_ = make()
    plain = build.make_actor_critic(c, model, ActionSpace(2), None)
    with pytest.raises(UsageError, match="this run trained no explorer"):
        build.make_behavior(c, model, ActionSpace(2), plain)
