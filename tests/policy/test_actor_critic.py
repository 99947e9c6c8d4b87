"""The imagination actor-critic on worlds with known answers, and who gets gradients from what."""

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.dynamics import Rollout
from worldmodel.model.heads import GaussianHead
from worldmodel.policy.actor_critic import (
    Actor,
    ActorCritic,
    compute_replay_returns,
    freeze_weights,
)
from worldmodel.policy.lambda_returns import ReturnScale, lambda_returns
from worldmodel.spaces import ActionSpace, ObservationSpace, count_states, map_state
from worldmodel.training.learner import Learner


def naive_return(reward, value, discount, lam, t):
    """The definition: a weighted mean of n-step returns, written as a recursion without
    sharing.
    """
    if t == len(reward):
        return value[-1]
    later = naive_return(reward, value, discount, lam, t + 1)
    return reward[t] + discount[t] * ((1 - lam) * value[t] + lam * later)


def test_lambda_returns_by_hand():
    reward, value = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    discount = torch.tensor([[0.5, 0.0, 0.5]])  # the second arrival is the end
    found = lambda_returns(reward, value, discount, 0.5)
    # G2 = 3 + .5 * 30;  G1 = 2, nothing after the end;  G0 = 1 + .5 (.5 * 10 + .5 * 2)
    torch.testing.assert_close(found, torch.tensor([[4.0, 2.0, 18.0]]))


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_lambda_returns_equal_a_naive_loop_with_terminations_in_the_middle(lam):
    g = torch.Generator().manual_seed(0)
    reward, value = torch.randn(5, 9, generator=g), torch.randn(5, 9, generator=g)
    discount = 0.9 * (torch.rand(5, 9, generator=g) > 0.2).float()
    assert (discount[:, 1:-1] == 0).any()
    found = lambda_returns(reward, value, discount, lam)
    want = [
        [naive_return(reward[n], value[n], discount[n], lam, t) for t in range(9)]
        for n in range(5)
    ]
    torch.testing.assert_close(found, torch.tensor(want))


def test_returns_on_replayed_rows_stop_at_the_end_of_an_episode():
    reward = torch.tensor([[0.0, 1.0, 1.0, 50.0, 1.0]])
    value = torch.tensor([[7.0, 7.0, 7.0, 9.0, 9.0]])
    last = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])  # row 2 ends an episode, row 3 begins another
    cut_short = compute_replay_returns(reward, value, torch.full((1, 5), 0.5), last, 1.0)
    torch.testing.assert_close(cut_short[0, :2], torch.tensor([1 + 0.5 * (1 + 3.5), 1 + 3.5]))
    over = torch.tensor([[0.5, 0.5, 0.0, 0.5, 0.5]])
    ended = compute_replay_returns(reward, value, over, last, 1.0)
    torch.testing.assert_close(ended[0, :2], torch.tensor([1.5, 1.0]))


def test_the_scale_of_returns_is_their_percentile_range_and_never_below_one():
    scale = ReturnScale()
    returns = torch.linspace(0, 100, 1001)
    # At once, not after a hundred updates
    assert scale.update(returns).item() == pytest.approx(90, abs=0.1)
    for _ in range(2000):
        found = scale.update(returns * 2)
    assert found.item() == pytest.approx(180, abs=0.2)
    assert ReturnScale().update(returns / 1000).item() == 1.0
    assert ReturnScale().state_dict().keys() == {"range", "seen"}  # what checkpoints hold


def test_later_ranges_count_by_the_decay():
    """Ranges of 90, then 180: (0.99 * 0.01 * 90 + 0.01 * 180) / (0.99 * 0.01 + 0.01)."""
    scale, returns = ReturnScale(), torch.linspace(0, 100, 1001)
    scale.update(returns)
    assert scale.update(2 * returns).item() == pytest.approx((0.99 * 90 + 180) / 1.99, rel=1e-3)
    # A range that is not finite is left out, be it of infinite returns or too wide a one.
    for wild in (returns / 0, torch.tensor([-3e38, 3e38]).repeat(50)):
        assert scale.update(wild).item() == pytest.approx((0.99 * 90 + 180) / 1.99, rel=1e-3)


class Known:
    """A world known exactly, with the interface of a world model: `step` is (state, action) ->
    next state.
    """

    def __init__(self, step, reward, cont):
        self.step, self.reward_of, self.cont_of = step, reward, cont
        self.arrivals = []

    @property
    def dynamics(self):
        return self

    def imagine_step(self, state, action, generator=None):
        x, reward = self.step(state["deter"], action, state)
        self.arrivals.append({"deter": x, "stoch": reward.unsqueeze(-1)})
        return self.arrivals[-1]

    def features(self, state):
        return state["deter"]

    def start_rollout(self, state, steps, generator=None):
        return Rollout(self, state, generator)

    def predict(self, feat, *heads):
        """The states that the last rollout arrived at; its rewards are not in the features."""
        states = {k: torch.stack([s[k] for s in self.arrivals]) for k in ("deter", "stoch")}
        self.arrivals = []
        return self.reward_of(states), self.cont_of(states), *(head.mean(feat) for head in heads)


def actor_critic(space, feat, *overrides, slow="ema"):
    """A linear actor and critic."""
    c = loading.parse(
        ["behavior.name=actor_critic", "critic.replay=0", f"critic.slow={slow}", *overrides]
    )
    torch.manual_seed(0)
    critic = build.SCALAR_HEADS[c.critic.head](feat, 0, 1, c.model.bins)
    return ActorCritic(Actor(feat, space, 0, 1, c.actor), critic, c.imag, c.critic)


def test_proposals_are_what_the_actor_does_in_imagination():
    c = loading.parse(["debug", "behavior.name=actor_critic", "model.latent=deterministic"])
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(2))
    policy = build.make_policy(c, model, ActionSpace(2))
    state = map_state(model.dynamics.initial(3), lambda v: v + torch.randn_like(v))
    found = policy.propose_plans(model, state, 4, 5, torch.Generator().manual_seed(1))
    assert found.shape == (3, 4, 5, 2) and not found.requires_grad
    generator = torch.Generator().manual_seed(1)
    each = map_state(state, lambda v: v.repeat_interleave(4, 0))
    for t in range(5):
        action = policy.choose(model.dynamics.features(each)).sample(generator).clamp(-1, 1)
        torch.testing.assert_close(found[:, :, t].flatten(0, 1), action)
        each = model.dynamics.imagine_step(each, action)


def practise(learner, model, starts, updates, lr):
    """Train actor and critic alone on fresh start states."""
    optimizer = torch.optim.Adam(
        [*learner.actor.parameters(), *learner.critic.parameters()], lr=lr
    )
    for i in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - i / updates)
        x = starts()
        post = {"deter": x.unsqueeze(0), "stoch": torch.zeros(1, len(x), 1)}
        losses, _ = learner.losses(
            model, {"is_terminal": torch.zeros(1, len(x))}, post, post["deter"]
        )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        learner.after_update()


# ---- a linear-quadratic world: x' = A x + B u, reward 1 - x'Qx - u'Ru of the state and action
# before the step

A_MATRIX = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
B_MATRIX = torch.tensor([[0.0], [0.4]])
Q_MATRIX, R_COST, GAMMA = torch.diag(torch.tensor([0.5, 0.1])), 0.1, 0.95


def lq_world():
    def step(x, u, state):
        cost = (x @ Q_MATRIX * x).sum(-1) + R_COST * u.square().sum(-1)
        return x @ A_MATRIX.T + u @ B_MATRIX.T, -cost

    return Known(step, lambda s: s["stoch"][..., 0], lambda s: torch.ones_like(s["stoch"][..., 0]))


def riccati():
    """The optimal gain of the discounted problem."""
    p = Q_MATRIX.clone()
    for _ in range(2000):
        gain = torch.linalg.solve(
            R_COST + GAMMA * B_MATRIX.T @ p @ B_MATRIX, GAMMA * B_MATRIX.T @ p @ A_MATRIX
        )
        p = Q_MATRIX + GAMMA * A_MATRIX.T @ p @ (A_MATRIX - B_MATRIX @ gain)
    return gain


def lq_cost(policy, starts, steps=200):
    x, total = starts, torch.zeros(len(starts))
    for t in range(steps):
        u = policy(x)
        total += GAMMA**t * ((x @ Q_MATRIX * x).sum(-1) + R_COST * u.square().sum(-1))
        x = x @ A_MATRIX.T + u @ B_MATRIX.T
    return total.mean()


class Quadratic(GaussianHead):
    """A critic of the right form: all squares and products of the state."""

    def __init__(self, feat):
        super().__init__(feat + feat * (feat + 1) // 2, 0, 1)

    def lift(self, x):
        i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
        return torch.cat([x, x[..., i] * x[..., j]], -1)

    def read(self, x):
        return super().read(self.lift(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gradient", "dist"),
    [
        ("dynamics", "bounded"),
        ("reinforce", "bounded"),
        ("mix", "bounded"),
        ("dynamics", "truncated"),
        ("reinforce", "tanh"),
        ("es", "bounded"),
    ],
)
def test_a_linear_quadratic_world_is_solved(gradient, dist):
    """The share of the possible improvement over doing nothing, against the Riccati optimum: at
    least 95 %.

    Starts are near the goal: a quadratic critic is exact only where no action is bounded, and
    `dynamics` follows it.
    """
    learner = actor_critic(
        ActionSpace(1),
        2,
        f"actor.gradient={gradient}",
        f"actor.dist={dist}",
        "actor.entropy=0",
        f"imag.discount={GAMMA}",
        "actor.min_std=0.05",
        "actor.max_std=0.3",
        "imag.horizon=6",
    )
    learner.critic, learner.slow = Quadratic(2), Quadratic(2)
    g = torch.Generator().manual_seed(1)

    def starts():
        return torch.randn(256, 2, generator=g) * 0.15

    practise(learner, lq_world(), starts, 500, 0.05)
    gain = riccati()
    test = torch.randn(2000, 2, generator=g) * 0.2

    def policy(x):
        with torch.no_grad():
            return learner.actor(x).mode()

    # Actions are bounded and the optimum is not: states are small enough that the bound hardly
    # matters.
    nothing = lq_cost(lambda x: torch.zeros(len(x), 1), test)
    best = lq_cost(lambda x: (-x @ gain.T).clamp(-1, 1), test)
    found = lq_cost(policy, test)
    assert (nothing - found) / (nothing - best) >= 0.95 and found <= best / 0.95, (
        nothing,
        best,
        found,
    )


# ---- a chain of five places: leaving it on the right is worth 1, on the left 0.2, and then it is
# over

PLACES, CHAIN_GAMMA = 5, 0.9


def chain_world():
    def step(x, action, state):
        place = x.argmax(-1) + torch.where(action[..., 1] > 0.5, 1, -1)
        reward = 1.0 * (place == PLACES) + 0.2 * (place == -1)
        over = (place == PLACES) | (place == -1)
        there = torch.nn.functional.one_hot(place.clamp(0, PLACES - 1), PLACES + 1).float()
        gone = torch.nn.functional.one_hot(torch.tensor(PLACES), PLACES + 1).float()
        # one past the end there is nothing any more; a rollout that goes on from it collects rubbish
        # that must not count
        already = x[..., PLACES] > 0.5
        x = torch.where((over | already).unsqueeze(-1), gone, there)
        return x, torch.where(already, torch.tensor(99.0), reward)

    return Known(step, lambda s: s["stoch"][..., 0], lambda s: 1 - s["deter"][..., PLACES])


def test_a_chain_with_terminations_gives_the_analytic_values():
    """Optimal values by hand: gamma^(steps to the right end), or 0.2 from the leftmost place by
    leaving at once.
    """
    learner = actor_critic(
        ActionSpace(2, (2,), True),
        PLACES + 1,
        "actor.gradient=reinforce",
        "actor.entropy=0",
        f"imag.discount={CHAIN_GAMMA}",
        "imag.horizon=8",
        "actor.normalize=none",
        "actor.unimix=0.01",
        "imag.lam=0.9",
        "critic.rate=0.2",
    )
    starts = torch.nn.functional.one_hot(torch.arange(PLACES), PLACES + 1).float().repeat(20, 1)
    practise(learner, chain_world(), lambda: starts, 200, 0.2)
    with torch.no_grad():
        dist = learner.actor(starts[:PLACES])
        value = learner.critic.mean(starts[:PLACES])
    assert (dist.mode().argmax(-1) == 1).all()
    # The policy keeps half a per cent of going the wrong way; its exact values solve a linear
    # system.
    right = dist.log_probs[0].exp()[:, 1]
    move, gain = torch.zeros(PLACES, PLACES), torch.zeros(PLACES)
    for i in range(PLACES):
        for chance, to, reward in ((right[i], i + 1, 1.0), (1 - right[i], i - 1, 0.2)):
            if 0 <= to < PLACES:
                move[i, to] = chance
            else:
                gain[i] += chance * reward
    exact = torch.linalg.solve(torch.eye(PLACES) - CHAIN_GAMMA * move, gain)
    torch.testing.assert_close(value, exact, atol=0.02, rtol=0)
    torch.testing.assert_close(exact, CHAIN_GAMMA ** torch.arange(4.0, -1, -1), atol=0.03, rtol=0)


def test_straight_through_gradients_find_the_best_of_two_groups_of_actions():
    """Multi-discrete and `dynamics`: the reward is a smooth function of the one-hot codes."""
    # A pair is worth the sum; best are 1 of the first, 1 of the second
    worth = torch.tensor([0.1, 1.0, 0.3, 0.0, 0.7])
    world = Known(
        lambda x, a, s: (x, a @ worth),
        lambda s: s["stoch"][..., 0],
        lambda s: torch.ones_like(s["stoch"][..., 0]),
    )
    learner = actor_critic(
        ActionSpace(5, (3, 2)),
        1,
        "actor.gradient=dynamics",
        "actor.entropy=0.001",
        "imag.horizon=2",
        "imag.discount=0.5",
    )
    practise(learner, world, lambda: torch.ones(64, 1), 200, 0.05)
    mode = learner.actor(torch.ones(1, 1)).mode()[0]
    assert mode[:3].argmax() == 1 and mode[3:].argmax() == 1


# ---- who gets gradients

TINY = [
    "behavior.name=actor_critic",
    "model.deter=12",
    "model.stoch=5",
    "model.classes=4",
    "model.hidden=14",
    "model.cnn=[4, 6]",
    "model.layers=1",
    "model.units=9",
    "env.size=[16, 16]",
    "replay.length=7",
    "run.precision=fp32",
    "loss.overshooting=1",
    "imag.horizon=4",
]


def whole(*overrides, space=None):
    torch.manual_seed(0)
    c = loading.parse([*TINY, *overrides])
    space = space or ActionSpace(2)
    model = build.make_model(c, ObservationSpace({"image": (16, 16, 3)}), space)
    policy = build.make_policy(c, model, space)
    # A fresh critic is zero everywhere and passes no gradient on; a fresh actor ignores what it
    # sees.
    for net in (policy.critic.net, policy.actor.net):
        torch.nn.init.normal_(net.out.weight, std=0.3)
    return c, model, policy


def random_batch(space=None):
    g = torch.Generator().manual_seed(0)
    flags = {
        k: torch.zeros(3, 7, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")
    }
    space = space or ActionSpace(2)
    image = torch.randint(0, 256, (3, 7, 16, 16, 3), generator=g, dtype=torch.uint8)
    action, reward = space.random(21, g).unflatten(0, (3, 7)), torch.randn(3, 7, generator=g)
    return {"image": image, "prev_action": action, "reward": reward, **flags}


def reached(module):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def backward(model, policy, name, precision="fp32"):
    """Gradients of one of the policy's losses alone; None where it has none."""
    batch = random_batch(policy.actor.space)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        _, _, post, feat = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        losses, _ = policy.losses(model, batch, post, feat)
    losses[name].backward()


KINDS = [
    (g, s)
    for g in ("dynamics", "reinforce", "mix", "es")
    for s in (ActionSpace(2), ActionSpace(5, (3, 2)))
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("gradient", "space"), KINDS, ids=lambda x: x if isinstance(x, str) else f"{x.groups}"
)
def test_the_actor_loss_trains_the_actor_alone(gradient, space, precision):
    _, model, policy = whole(f"actor.gradient={gradient}", space=space)
    backward(model, policy, "actor", precision)
    assert (
        reached(policy.actor)
        and not reached(policy.critic)
        and not reached(policy.slow)
        and not reached(model)
    )


def test_the_critic_loss_trains_the_critic_alone():
    _, model, policy = whole()
    backward(model, policy, "critic")
    assert (
        reached(policy.critic)
        and not reached(policy.actor)
        and not reached(policy.slow)
        and not reached(model)
    )


def test_only_the_replayed_critic_loss_reaches_the_world_model():
    _, model, policy = whole("critic.replay=0.3")
    backward(model, policy, "critic_replay")
    assert reached(policy.critic) and reached(model.dynamics) and reached(model.encoder)
    assert not reached(policy.actor) and not reached(model.reward) and not reached(policy.slow)


def test_weights_are_unfrozen_again_even_after_an_error():
    _, model, _ = whole()
    with pytest.raises(ValueError), freeze_weights(model):
        assert not any(p.requires_grad for p in model.parameters())
        raise ValueError
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "optim",
    [["optim.name=adam"], ["optim.name=laprop", "optim.clip_by=adaptive", "optim.clip=0.3"]],
)
def test_every_part_moves_at_its_own_rate_and_the_slow_critic_follows(optim):
    c, model, policy = whole(
        "optim.actor_lr=0.002", "optim.critic_lr=0.004", "critic.rate=0.5", *optim
    )
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy)
    assert [o.lr for o in learner.optimizers.each.values()] == [c.optim.lr, 0.002, 0.004]
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    metrics = learner.update(random_batch())
    after = policy.state_dict()
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"actor", "critic", "slow", "scale", "updates"}
    name = next(k for k in before if k.startswith("slow") and "out.weight" in k)
    torch.testing.assert_close(after[name], (before[name] + after["critic" + name[4:]]) / 2)
    assert all(torch.isfinite(v).all() for v in metrics.values())
    assert {"grad_norm/model", "grad_norm/actor", "grad_norm/critic"} <= set(metrics)


def test_a_copied_slow_critic_waits_for_its_turn():
    c, model, policy = whole(
        "critic.slow=copy", "critic.every=3", "critic.bootstrap=slow", "critic.pull=0"
    )
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy)
    same = []
    for _ in range(6):
        learner.update(random_batch())
        weights = zip(policy.slow.parameters(), policy.critic.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in weights))
    assert same == [False, False, True, False, False, True]


def test_actor_and_critic_may_learn_at_every_other_update():
    c, model, policy = whole("imag.every=2")
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy)
    moved = []
    for _ in range(4):
        before = {**policy.state_dict(), "model": model.reward.net.out.weight}
        before = {k: v.clone() for k, v in before.items()}
        metrics = learner.update(random_batch())
        changed = {
            k.split(".")[0]
            for k, v in policy.state_dict().items()
            if not torch.equal(before[k], v)
        }
        moved.append(changed)
        assert not torch.equal(before["model"], model.reward.net.out.weight)
        assert ("loss/actor" in metrics) == ("grad_norm/actor" in metrics) == bool(changed)
    assert moved == [{"actor", "critic", "slow", "scale", "updates"}, set()] * 2


def test_nothing_of_a_non_finite_update_is_kept():
    c, model, policy = whole()
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy)
    learner.update(random_batch())
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    bad = random_batch()
    bad["reward"][0, 3] = float("nan")
    learner.update(bad)
    assert learner.skip_count == 1
    assert all(
        torch.equal(v, policy.state_dict()[k])
        for k, v in before.items()
        if k.split(".")[0] != "scale"
    )
    assert all(torch.isfinite(v).all() for v in policy.state_dict().values())


def test_rollouts_start_from_as_many_states_as_asked_and_the_dead_count_nothing():
    _, model, policy = whole("imag.starts=5", "critic.replay=0")
    batch = random_batch()
    seen = []
    plain = model.dynamics.imagine_step
    model.dynamics.imagine_step = lambda state, *rest: (
        seen.append(count_states(state)) or plain(state, *rest)
    )
    _, _, post, feat = model.loss(batch)
    policy.losses(model, batch, post, feat)
    assert seen == [5] * 4
    batch["is_terminal"][:] = True
    losses, _ = policy.losses(model, batch, post, feat)
    assert losses["actor"] == 0 and losses["critic"] == 0
