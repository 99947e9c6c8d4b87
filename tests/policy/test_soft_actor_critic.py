"""Soft actor-critic on worlds with known answers: targets by hand, optima, and who gets gradients."""

import math

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.dynamics import Rollout
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.action_distributions import SquashedNormal
from worldmodel.policy.soft_actor_critic import (
    Rows,
    choose_length,
    choose_target_entropy,
    compute_targets,
    expand_values,
)
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner


class Known:
    """A world known exactly, whose features are its state; the reward depends on the arrival."""

    trained_by_policy = False

    def __init__(self, step, reward, cont=None):
        self.step, self.reward, self.cont = step, reward, cont
        self.dynamics = self

    def imagine_step(self, state, action, generator=None):
        return {"x": self.step(state["x"], action)}

    def features(self, state):
        return state["x"]

    def start_rollout(self, state, steps, generator=None):
        return Rollout(self, state, generator)

    def predict(self, feat):
        reward = self.reward(feat)
        return reward, torch.ones_like(reward) if self.cont is None else self.cont(feat)


class Doubted(Known):
    """Its two members expect 0 and twice the place that the action was taken at."""

    measure_disagreement = WorldModel.measure_disagreement
    measure_rollout_disagreement = WorldModel.measure_rollout_disagreement

    def predict_members(self, feat, action):
        return torch.stack([0 * feat, 2 * feat])


def make_soft_actor_critic(space, feat, *overrides):
    c = loading.parse(["behavior.name=dyna", "actor.dist=squashed", "model.layers=1", *overrides])
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"vector": 3}), space)
    model.dynamics.feature_size = feat
    return build.make_policy(c, model, space)


def make_batch(x, action, reward, first=(), terminal=()):
    """Rows (B,T,...); `first` and `terminal` are places (b, t)."""
    shape = reward.shape
    flags = {k: torch.zeros(shape, dtype=torch.bool) for k in ("is_first", "is_terminal")}
    for name, places in (("is_first", first), ("is_terminal", terminal)):
        for place in places:
            flags[name][place] = True
    return {"prev_action": action, "reward": reward, **flags}, {"x": x}, x


def make_rows(reward, discount, last):
    last = torch.tensor(last).unsqueeze(1)
    empty = torch.zeros(len(reward), 1, 1)
    reward, discount = torch.tensor(reward).unsqueeze(1), torch.tensor(discount).unsqueeze(1)
    return Rows(empty, empty, reward, discount, last, (~last).float())


def test_networks_see_how_large_raw_features_are():
    """Without a bias before the first norm, x and 2 x would be the same to them."""
    policy = make_soft_actor_critic(ActionSpace(2), 3, "actor.init_scale=1.0")
    x, action = torch.randn(5, 3), torch.zeros(5, 2)
    assert (policy.critics(x, action) - policy.critics(2 * x, action)).abs().min() > 1e-4
    assert (policy.actor(x).mean - policy.actor(2 * x).mean).abs().min() > 1e-4


def test_targets_by_hand_stop_at_ends_and_go_on_over_time_limits():
    """Row 2 is an episode's last: once by termination, once by a time limit; row 3 begins anew."""
    value = torch.tensor([[9.0], [20.0], [30.0], [40.0], [50.0]])
    last = [False, False, True, False, True]
    reward = [7.0, 1.0, 2.0, 5.0, 3.0]
    limit = make_rows(reward, [0.5, 0.5, 0.5, 0.5, 0.5], last)
    over = make_rows(reward, [0.5, 0.5, 0.0, 0.5, 0.5], last)
    one = compute_targets(limit, value, 0)[:, 0]
    # Row 2's transition is to another episode: it has no weight.
    assert one[[0, 1, 3]].tolist() == [1 + 10, 2 + 15, 3 + 25]
    assert limit.weight[:, 0].tolist() == [1, 1, 0, 1, 0]
    assert compute_targets(over, value, 0)[1].item() == 2
    # Two steps: 1 + .5 (2 + .5 * 30); at the last row the value is trusted.
    assert compute_targets(limit, value, 1)[[0, 1, 3], 0].tolist() == [9.5, 17, 28]
    assert compute_targets(over, value, 1)[[0, 1], 0].tolist() == [2, 2]
    assert torch.equal(compute_targets(limit, value, 2)[:2], compute_targets(limit, value, 1)[:2])


def test_an_expansion_earns_the_entropy_of_its_own_steps():
    rows = make_rows([0.0, 1.0, 2.0], [0.0, 0.5, 0.5], [False, False, True])
    value = torch.tensor([[3.0], [4.0], [8.0]])
    bonus = torch.tensor([[0.1], [0.2], [5.0]])
    assert torch.equal(expand_values(rows, value, 0, bonus), value)
    found = expand_values(rows, value, 2, bonus)[:, 0]
    torch.testing.assert_close(found, torch.tensor([0.1 + 1 + 0.5 * (0.2 + 2 + 4), 6.2, 8.0]))


def test_a_schedule_of_lengths_is_linear_between_its_frames():
    assert choose_length(4, 10**9) == 4
    assert [choose_length([1, 15, 20, 90], n) for n in (0, 20, 24, 25, 55, 90, 500)] == [
        1, 1, 1, 2, 8, 15, 15,
    ]  # fmt: skip
    keys = ("dyna.rollout_length=[1,15,20,90]", "dyna.real_ratio=0.5")
    assert make_soft_actor_critic(ActionSpace(2), 3, *keys).begin_update(55) == 8


def test_a_schedule_that_ends_at_0_imagines_nothing_afterwards():
    keys = ("dyna.rollout_length=[2,0,10,20]", "train.policy_updates_per_step=1")
    c = loading.parse(["debug", "behavior.name=dyna", "dyna.real_ratio=0.5", *keys])
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"vector": 3}), ActionSpace(2))
    policy = build.make_policy(c, model, ActionSpace(2))
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy, trains_apart=True)
    start, imagined = model.dynamics.start_rollout, []
    model.dynamics.start_rollout = lambda *args: imagined.append(args[1]) or start(*args)
    flags = {k: torch.zeros(2, 6, dtype=torch.bool) for k in ("is_first", "is_terminal")}
    batch = {"vector": torch.randn(2, 6, 3), "prev_action": torch.randn(2, 6, 2)}
    batch |= {"reward": torch.randn(2, 6), **flags}

    def update(frames):
        """The steps of the rollouts that an update imagines."""
        imagined.clear()
        found = learner.update_policy(batch, frames)
        assert ("imag_reward" in found) == bool(imagined), found.keys()
        return list(imagined)

    assert [update(frames) for frames in (0, 10, 15)] == [[2], [2], [1]]
    before = [p.detach().clone() for p in policy.actor.parameters()]
    assert [update(frames) for frames in (20, 21, 10**9)] == [[], [], []]
    moved = [(p - q).abs().max() for p, q in zip(policy.actor.parameters(), before, strict=True)]
    assert max(moved) > 0, "replayed steps still teach"


def test_a_target_looks_no_further_than_the_sequences_that_train_it():
    keys = ["debug", "behavior.name=dyna", "dyna.n_step=3", "replay.length=6"]
    loading.parse(keys)
    with pytest.raises(loading.ConfigError, match="dyna.n_step: 3 must be shorter .* of 3 steps"):
        loading.parse([*keys, "train.policy_updates_per_step=1", "train.policy_length=3"])


def test_the_squashed_normal_integrates_to_one_and_knows_its_samples():
    dist = SquashedNormal(torch.tensor([[0.4]]), torch.tensor([[0.3]]), 0.05, 2.0)
    grid = torch.linspace(-1 + 1e-5, 1 - 1e-5, 200001)[:, None, None]
    density = dist.log_prob(grid).exp()[:, 0]
    assert torch.trapezoid(density, grid[:, 0, 0]).item() == pytest.approx(1, abs=1e-3)
    action, log_prob = dist.sample_with_log_prob(torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_prob, dist.log_prob(action), atol=1e-4, rtol=1e-4)
    narrow = SquashedNormal(torch.zeros(1), torch.tensor([-99.0]), 0.05, 2.0)
    wide = SquashedNormal(torch.zeros(1), torch.tensor([99.0]), 0.05, 2.0)
    assert narrow.std.item() == pytest.approx(0.05) and wide.std.item() == pytest.approx(2.0)


def test_discrete_values_are_expectations_over_all_pairs_of_choices():
    space = ActionSpace(5, (3, 2))
    policy = make_soft_actor_critic(space, 4, "dyna.critics=1", "actor.init_scale=3.0")
    feat = torch.randn(7, 4)
    probs = [logs.exp() for logs in policy.actor(feat).log_probs]
    want = torch.zeros(7)
    for i in range(3):
        for j in range(2):
            pick = space.one_hot([torch.full((7,), i), torch.full((7,), j)])
            chance = probs[0][:, i] * probs[1][:, j]
            want += chance * policy.critics(feat, pick)[0]
    torch.testing.assert_close(policy.value(feat), want)
    assert choose_target_entropy(space) == pytest.approx(0.5 * math.log(6))
    assert choose_target_entropy(ActionSpace(5)) == -5


def test_the_logged_value_is_a_mean_over_rows():
    policy = make_soft_actor_critic(ActionSpace(3, (3,)), 2, "dyna.temperature=0.7")
    x, action = torch.randn(2, 4, 2), torch.eye(3)[torch.randint(3, (2, 4))]
    _, metrics = policy.losses(Known(None, None), *make_batch(x, action, torch.zeros(2, 4)))
    dist, least = policy.actor(x[:, 1:]), policy.slow.read(x[:, 1:]).amin(0)
    value = (dist.log_probs[0].exp() * least).sum(-1) + 0.7 * dist.entropy()
    assert metrics["value"].item() == pytest.approx(value.mean().item(), rel=1e-4)


def test_the_least_of_the_slow_critics_and_the_entropy_make_a_target():
    """One transition, by hand, against the loss of all critics."""
    policy = make_soft_actor_critic(
        ActionSpace(3, (3,)), 2, "dyna.critics=4", "dyna.temperature=0.7", "imag.discount=0.9"
    )
    for p in policy.slow.parameters():
        p.data += 0.3 * torch.randn_like(p)
    x, action = torch.randn(1, 2, 2), torch.eye(3)[None, [0, 2]]
    batch = make_batch(x, action, torch.tensor([[5.0, 2.0]]))
    losses, metrics = policy.losses(Known(None, None), *batch)
    dist = policy.actor(x[:, 1])
    least = policy.slow.read(x[:, 1]).amin(0)
    value = (dist.log_probs[0].exp() * least).sum() + 0.7 * dist.entropy().sum()
    q = policy.critics(x[:, 0], action[:, 1])
    assert metrics["target"].item() == pytest.approx((2 + 0.9 * value).item())
    want = 0.5 * (q - (2 + 0.9 * value)).square().sum()
    assert losses["critic"].item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("expansion", [0, 1, 3])
def test_imagined_steps_reach_the_targets_as_far_as_they_are_asked_to(expansion):
    """x grows by one a step and pays x on arrival; the slow critics say zero everywhere."""
    policy = make_soft_actor_critic(
        ActionSpace(2),
        1,
        "imag.discount=0.5",
        "dyna.temperature=1e-9",
        f"dyna.value_expansion={expansion}",
        "dyna.rollout_length=0",
    )
    for p in policy.slow.parameters():
        p.data.zero_()
    model = Known(lambda x, a: x + 1, lambda x: x[..., 0])
    batch = make_batch(
        torch.tensor([[[10.0], [20.0], [30.0]]]), torch.zeros(1, 3, 2), torch.full((1, 3), 7.0),
        terminal=[(0, 2)],
    )  # fmt: skip
    _, metrics = policy.losses(model, *batch)
    ahead = sum(0.5 ** (i + 1) * (21 + i) for i in range(expansion))
    assert metrics["target"].item() == pytest.approx((7 + ahead + 7) / 2, rel=1e-5)


@pytest.mark.parametrize("pessimism", [0.0, 0.3, -1.0])
def test_pessimism_lowers_imagined_rewards_by_the_disagreement_and_no_replayed_ones(pessimism):
    """x grows by one a step and pays x on arrival; members disagree by the x before the step."""
    keys = ("imag.discount=0.5", "dyna.temperature=1e-9", "ensemble.size=2")
    keys += (f"imag.pessimism={pessimism}", "dyna.rollout_length=2", "dyna.value_expansion=2")
    policy = make_soft_actor_critic(ActionSpace(2), 1, *keys)
    policy.length = 2
    for p in policy.slow.parameters():
        p.data.zero_()
    model = Doubted(lambda x, a: x + 1, lambda x: x[..., 0])
    batch = make_batch(
        torch.tensor([[[10.0], [20.0], [30.0]]]), torch.zeros(1, 3, 2), torch.full((1, 3), 7.0),
        terminal=[(0, 2)],
    )  # fmt: skip
    _, metrics = policy.losses(model, *batch)
    assert metrics["imag_reward"].item() == pytest.approx(21.5 - pessimism * 20.5)
    ahead = 0.5 * (21 - pessimism * 20) + 0.25 * (22 - pessimism * 21)
    assert metrics["target"].item() == pytest.approx((7 + ahead + 7) / 2, rel=1e-5)


def test_pessimism_changes_the_imagined_rewards_of_mbpo_and_nothing_else():
    space, x = ActionSpace(2), torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))

    def imagine(*keys):
        torch.manual_seed(0)
        small = ("model.units=16", "mlp.layers=2", "mlp.units=16", "dyna.rollout_length=3")
        c = loading.parse(["mbpo", *small, *keys])
        model = build.make_model(c, ObservationSpace({"vector": 3}), space)
        model.reward.net.out.weight.data.normal_()
        policy = build.make_policy(c, model, space)
        policy.begin_update(0)
        batch = make_batch(x, torch.zeros(4, 2, 2), torch.zeros(4, 2))[0]
        torch.manual_seed(1)
        return model, policy._imagine(model, batch, {"vector": x}, torch.zeros(2, 4))

    model, (_, plain, _) = imagine("imag.pessimism=0")
    _, (_, cautious, target) = imagine("imag.pessimism=2")
    with torch.no_grad():
        doubt = model.measure_disagreement(plain.feat[:-1], plain.action[1:])
        torch.testing.assert_close(plain.reward[1:], model.predict(plain.feat[1:])[0])
    assert doubt.shape == (3, 8) and doubt.min() > 0.001
    torch.testing.assert_close(cautious.reward[1:], plain.reward[1:] - 2 * doubt)
    for name in ("feat", "action", "discount", "weight"):
        assert torch.equal(getattr(cautious, name), getattr(plain, name)), name
    usual, again = imagine()[1][2], imagine("imag.pessimism=0")[1][2]
    assert torch.equal(usual, again)
    torch.testing.assert_close(target, usual - 2 * doubt)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (["mbpo", "ensemble.size=1"], "1.0 of a disagreement needs members that disagree"),
        (["sac"], "with dyna.real_ratio 1 and dyna.value_expansion 0 none counts"),
        (["small", "sac_pixels"], "with dyna.real_ratio 1 and dyna.value_expansion 0 none counts"),
        (["mbpo", "dyna.rollout_length=[0,0,3,9]"], "with dyna.rollout_length 0 and"),
    ],
)
def test_pessimism_is_refused_where_no_imagined_reward_counts(keys, wanted):
    with pytest.raises(loading.ConfigError) as caught:
        loading.parse([*keys, "imag.pessimism=1"])
    (problem,) = caught.value.problems
    assert problem.startswith("imag.pessimism: ") and wanted in problem
    loading.parse(["mbpo", "imag.pessimism=1", "dyna.rollout_length=[3,0,3,9]"])
    members = ("ensemble.size=3", "ensemble.of=dynamics")
    loading.parse(["mve", "imag.pessimism=1", *members])


def test_real_and_imagined_transitions_count_by_their_ratio():
    def losses(ratio, length):
        torch.manual_seed(1)
        policy = make_soft_actor_critic(
            ActionSpace(2), 3, f"dyna.real_ratio={ratio}", "dyna.rollout_length=2"
        )
        policy.length = length
        model = Known(lambda x, a: 0.9 * x, lambda x: x.sum(-1))
        g = torch.Generator().manual_seed(0)
        x, action = torch.randn(4, 5, 3, generator=g), torch.randn(4, 5, 2, generator=g)
        torch.manual_seed(2)
        return policy.losses(model, *make_batch(x, action, torch.ones(4, 5)))

    real, mixed = losses(1, 2)[0], losses(0.25, 2)[0]
    assert torch.equal(losses(0.25, 0)[0]["critic"], losses(1, 0)[0]["critic"])
    want = 0.25 * real["critic"] + 0.75 * losses(0, 2)[0]["critic"]
    torch.testing.assert_close(mixed["critic"], want)
    assert mixed["critic"] != real["critic"]
    assert "target" not in losses(0, 2)[1], "replayed transitions that count nothing cost nothing"


def test_every_loss_reaches_its_own_part_and_no_other():
    policy = make_soft_actor_critic(ActionSpace(2), 3)
    policy.length = 2
    scale = torch.nn.Parameter(torch.tensor(0.9))
    model = Known(lambda x, a: scale * x + a.sum(-1, keepdim=True), lambda x: x.sum(-1))
    feat = torch.randn(4, 5, 3, requires_grad=True)
    batch, post, _ = make_batch(feat.detach(), torch.randn(4, 5, 2), torch.ones(4, 5))
    parts = {k: list(m.parameters()) for k, (m, _) in policy.list_parts().items()}
    losses, _ = policy.losses(model, batch, post, feat)
    assert losses.keys() == parts.keys()
    others = {"model": [scale, feat], "slow": list(policy.slow.parameters())}
    for name, loss in losses.items():
        wanted = [p for params in {**parts, **others}.values() for p in params if p.requires_grad]
        grads = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(wanted, grads, strict=True) if g is not None}
        assert reached == {id(p) for p in parts[name]}, name


def test_a_dynamics_that_the_critic_trains_is_reached_by_the_critics_loss_alone():
    policy = make_soft_actor_critic(ActionSpace(2), 3)
    model, feat = Known(None, None), torch.randn(4, 5, 3, requires_grad=True)
    model.trained_by_policy = True
    batch, post, _ = make_batch(feat.detach(), torch.randn(4, 5, 2), torch.ones(4, 5))
    losses, _ = policy.losses(model, batch, post, feat)
    grads = {
        k: torch.autograd.grad(loss, feat, retain_graph=True, allow_unused=True)[0]
        for k, loss in losses.items()
    }
    assert grads["actor"] is None and grads["temperature"] is None
    # The last row is nobody's transition, and its target has no gradient.
    assert grads["critic"][:, :-1].abs().min() > 0 and not grads["critic"][:, -1].any()


def practise(policy, model, make, updates, lr):
    optimizer = torch.optim.Adam(
        [p for m, _ in policy.list_parts().values() for p in m.parameters()], lr=lr
    )
    for i in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - i / updates)
        losses, _ = policy.losses(model, *make())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        policy.after_update()


@pytest.mark.parametrize("length", [0, 2])
def test_a_soft_bandit_gets_its_analytic_optimum(length):
    """Reward -(a - .3)^2 / (2 s^2) at temperature 1: the best policy is a normal of std s, cut to
    the box. From replayed steps of random actions, and from imagined ones alone.
    """
    policy = make_soft_actor_critic(
        ActionSpace(1),
        1,
        "imag.discount=0",
        f"dyna.real_ratio={0 if length else 1}",
        f"dyna.rollout_length={2 if length else 0}",
        "dyna.temperature=1",
        "actor.min_std=0.01",
        "actor.max_std=3",
        "model.units=32",
    )
    policy.length = length
    policy.temperature.requires_grad_(False)
    model = Known(lambda x, a: a, lambda x: -(x[..., 0] - 0.3).square() / (2 * 0.3**2))

    def make():
        action = torch.rand(64, 2, 1) * 2 - 1
        reward = model.reward(action)
        return make_batch(torch.zeros(64, 2, 1), action, reward)

    parts = {k: v for k, v in policy.list_parts().items() if k != "temperature"}
    policy.list_parts = lambda: parts
    practise(policy, model, make, 250, 1e-2)
    with torch.no_grad():
        sample = policy.actor(torch.zeros(4000, 1)).sample(torch.Generator().manual_seed(0))
    assert sample.mean().item() == pytest.approx(0.3, abs=0.08)
    assert sample.std().item() == pytest.approx(0.29, abs=0.1)


@pytest.mark.parametrize("target", [-2.0, 0.3])
def test_the_temperature_holds_the_entropy_at_its_target(target):
    policy = make_soft_actor_critic(
        ActionSpace(1),
        1,
        "imag.discount=0",
        "dyna.rollout_length=0",
        "dyna.temperature=0.3",
        f"dyna.target_entropy={target}",
        "actor.min_std=0.01",
        "actor.max_std=3",
        "model.units=32",
    )

    def make():
        action = torch.rand(128, 2, 1) * 2 - 1
        return make_batch(torch.zeros(128, 2, 1), action, -10 * (action[..., 0] - 0.3).square())

    practise(policy, Known(None, None), make, 300, 2e-2)
    _, metrics = policy.losses(Known(None, None), *make())
    assert metrics["entropy"].item() == pytest.approx(target, abs=0.5)


# Five places and, to their right, the end: arriving there pays 1, so that V = .9^steps.
PLACES = torch.eye(6)


def make_chain_policy(*overrides):
    """A policy of two choices, left and right."""
    keys = ("imag.discount=0.9", "dyna.temperature=1e-4", "dyna.target_entropy=0")
    keys += ("dyna.tau=0.1", "model.units=32", "actor.unimix=0.01")
    return make_soft_actor_critic(ActionSpace(2, (2,), True), 6, *keys, *overrides)


def move_in_chain(at, right):
    return (at + 2 * right - 1).clamp(0, 5)


def make_chain_batch(choices):
    """128 transitions from random places; actions are the first `choices` of left and right."""
    at, right = torch.randint(5, (128,)), torch.randint(choices, (128,))
    to = move_in_chain(at, right)
    x = torch.stack([PLACES[at], PLACES[to]], 1)
    action = torch.nn.functional.one_hot(right, 2).float()[:, None].expand(-1, 2, -1)
    reward = torch.stack([torch.zeros(128), (to == 5).float()], 1)
    over = [(i, 1) for i in range(128) if to[i] == 5]
    return make_batch(x, action, reward, terminal=over)


def check_chain(policy):
    assert (policy.actor(PLACES[:5]).mode().argmax(-1) == 1).all()
    want = 0.9 ** torch.arange(4.0, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(policy.value(PLACES[:5]), want, atol=0.06, rtol=0)


def test_a_plan_of_q_values_finds_the_end_of_a_chain_from_replay_alone():
    policy = make_chain_policy("dyna.rollout_length=0")
    practise(policy, Known(None, None), lambda: make_chain_batch(2), 250, 1e-2)
    check_chain(policy)


def test_dyna_q_finds_in_imagination_the_end_of_a_chain_that_no_replayed_step_reaches():
    """All replayed steps go left; one imagined step from each place may go right."""
    policy = make_chain_policy("dyna.rollout_length=1", "dyna.real_ratio=0.5")
    policy.begin_update(0)
    model = Known(
        lambda x, a: PLACES[move_in_chain(x.argmax(-1), a.argmax(-1))],
        lambda x: x[..., 5],
        lambda x: 1 - x[..., 5],
    )
    practise(policy, model, lambda: make_chain_batch(1), 200, 1e-2)
    check_chain(policy)
    with torch.no_grad():  # what was replayed: a step left, and from there the best way
        left = policy.critics.read(PLACES[:5])[..., 0].amin(0)
    want = 0.9 ** torch.tensor([5.0, 5, 4, 3, 2])
    torch.testing.assert_close(left, want, atol=0.06, rtol=0)


def test_updates_of_the_policy_alone_leave_the_model_and_follow_their_own_count():
    c = loading.parse(["debug", "behavior.name=dyna", "train.policy_updates_per_step=2"])
    space = ActionSpace(2)
    model = build.make_model(c, ObservationSpace({"vector": 3}), space)
    policy = build.make_policy(c, model, space)
    learner = Learner(
        model, c.optim, torch.device("cpu"), "fp32", policy, trains_apart=True
    )  # fmt: skip
    flags = {k: torch.zeros(2, 6, dtype=torch.bool) for k in ("is_first", "is_terminal")}
    batch = {
        "vector": torch.randn(2, 6, 3),
        "prev_action": torch.randn(2, 6, 2),
        "reward": torch.randn(2, 6),
        **flags,
    }

    def copy(module):
        return [p.detach().clone() for p in module.parameters()]

    def same(module, old):
        return all(torch.equal(a, b) for a, b in zip(copy(module), old, strict=True))

    theory, acting, slow = copy(model), copy(policy.actor), copy(policy.slow)
    learner.update_policy(batch, 0)
    assert same(model, theory) and not same(policy.actor, acting) and not same(policy.slow, slow)
    acting, slow = copy(policy.actor), copy(policy.slow)
    learner.update(batch)
    assert not same(model, theory) and same(policy.actor, acting) and same(policy.slow, slow)
    assert (learner.updates, learner.policy_updates) == (1, 1)
    assert learner.state_dict()["policy_updates"] == 1
    learner.load_state_dict({"updates": 3, "skipped": 0, "skipped_in_a_row": 0})  # of before
    assert learner.policy_updates == 0
