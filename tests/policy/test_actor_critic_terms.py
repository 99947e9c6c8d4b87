"""Each term of the actor-critic's losses against numbers worked out by hand.

Three steps from two states; the second is terminal and counts nothing. With discount 0.5 and
lambda 1 the discounts are d = (1/4, 2/5, 0), so that

    returns  G_2 = r_2,  G_1 = r_1 + d_1 G_2,  G_0 = r_0 + d_0 G_1
    weights  w = (1, d_0, d_0 d_1) = (1, 0.25, 0.1)
"""

import math

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.dynamics import Rollout
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.actor_critic import Actor, ActorCritic, freeze_weights
from worldmodel.spaces import ActionSpace

CONT = torch.tensor([[0.5, 0.5], [0.8, 0.8], [0.0, 0.0]])
REWARD = torch.tensor([[1.0, 7.0], [2.0, 7.0], [4.0, 7.0]])
RETURNS = torch.tensor([1.9, 3.6, 4.0])  # of the first start, where values count nothing
WEIGHTS = torch.tensor([1.0, 0.25, 0.1])
FEATURES = 0.5, 0.25  # of the two starts; the world adds each action to them
DISTANCE = 0.5 * math.log(2 * math.pi)


class Adding:
    """A world whose features (N,1) grow by the action; rewards and continuation are given."""

    def __init__(self, reward=REWARD, cont=CONT):
        self.given = reward, cont

    @property
    def dynamics(self):
        return self

    def start_rollout(self, state, steps, generator=None):
        return Rollout(self, state, generator)

    def imagine_step(self, state, action, generator=None):
        return {"x": state["x"] + action}

    def features(self, state):
        return state["x"]

    def predict(self, feat, *heads):
        self.arrivals = feat
        return *self.given, *(head.mean(feat) for head in heads)


def make(*overrides, output=(0.0, 0.0), value=(0.0, 0.0), space=None):
    """An actor of constant output (mean and spread, or logits), and the critic value[0] x +
    value[1].
    """
    given = ["critic.head=gaussian", "critic.replay=0", "critic.pull=0", "actor.entropy=0"]
    given += ["imag.discount=0.5", "imag.lam=1", "imag.horizon=3", "actor.normalize=none"]
    c = loading.parse(["behavior.name=actor_critic", *given, *overrides])
    space = space or ActionSpace(1)
    critic = build.SCALAR_HEADS[c.critic.head](1, 0, 1, c.model.bins)
    policy = ActorCritic(Actor(1, space, 0, 1, c.actor), critic, c.imag, c.critic)
    torch.nn.init.zeros_(policy.actor.net.out.weight)
    policy.actor.net.out.bias.data = torch.tensor(output)
    set_value(critic, *value)
    if policy.slow is not None:
        set_value(policy.slow, *value)
    return policy


def set_value(critic, slope, constant):
    torch.nn.init.constant_(critic.net.out.weight, slope)
    torch.nn.init.constant_(critic.net.out.bias, constant)


def starts():
    feat = torch.tensor(FEATURES).view(1, 2, 1)
    return {"is_terminal": torch.tensor([[False, True]])}, {"x": feat}, feat


def losses_of(policy, model=None):
    batch, post, feat = starts()
    return policy.losses(model or Adding(), batch, post, feat)[0]


def check(found, *wanted):
    torch.testing.assert_close(found.detach(), torch.tensor(sum(wanted) / 6))  # of 3 x 2 numbers


def test_the_actor_gets_returns_weighted_by_being_alive():
    check(losses_of(make())["actor"], -(1.9 + 0.25 * 3.6 + 0.1 * 4.0))


def test_the_critic_gets_squared_errors_weighted_by_being_alive():
    squares = [(g - 1.0) ** 2 / 2 for g in (1.9, 3.6, 4.0)]
    value = make(value=(0.0, 1.0))  # no value counts in the returns: the last arrival is an end
    check(losses_of(value)["critic"], squares[0], 0.25 * squares[1], 0.1 * squares[2])


def test_returns_mix_values_and_later_returns_by_lambda():
    """With lambda 0.5 and a value of 2 everywhere G_1 = 2 + 0.4 (1 + 2), G_0 = 1 + 0.25 (1 +
    G_1 / 2).
    """
    policy = make("imag.lam=0.5", value=(0.0, 2.0))
    check(losses_of(policy)["actor"], -(1 + 0.25 * (1 + 1.6) + 0.25 * 3.2 + 0.1 * 4.0))


def test_the_last_return_is_bootstrapped_by_the_last_arrival():
    """With no end, the value 2x of the third arrival counts, and no other at lambda 1."""
    policy, model = make(value=(2.0, 0.0)), Adding(cont=torch.ones(3, 2))
    found = losses_of(policy, model)["actor"]
    last = 4 + 0.5 * 2 * model.arrivals[2, 0, 0].item()
    middle = 2 + 0.5 * last
    check(found, -(1 + 0.5 * middle + 0.5 * middle + 0.25 * last))


HOLDING = ("actor.entropy=0.01", "actor.target_entropy=0.5")


def test_the_target_entropy_is_a_share_of_what_the_distribution_allows():
    """Half way between stds of 0.1 and 1 lies their geometric mean, for each action."""
    policy = make(*HOLDING, output=(0.0,) * 4, space=ActionSpace(2))
    assert policy.target_entropy == pytest.approx(2 * (0.5 + DISTANCE + math.log(0.1**0.5)))
    space = ActionSpace(2, (2,), True)
    mixed = make(*HOLDING, "actor.unimix=0.1", output=(50.0, 0.0), space=space)
    low, high = mixed.actor(torch.zeros(1)).entropy().item(), math.log(2)
    assert mixed.target_entropy == pytest.approx(0.5 * (low + high))
    choices = make(
        *HOLDING, "actor.unimix=0", output=(0.0,) * 5, space=ActionSpace(5, (2, 3), True)
    )
    assert choices.target_entropy == pytest.approx(0.5 * math.log(6))


def test_the_temperature_learns_by_the_weighted_distance_from_the_target():
    policy = make(*HOLDING)
    std = 0.9 / (1 + math.exp(-2)) + 0.1
    gap = math.log(std) - math.log(0.1**0.5)
    found = losses_of(policy)["temperature"]
    torch.testing.assert_close(found.detach(), torch.tensor(0.01 * gap))
    found.backward()  # the terminal start counts nothing
    torch.testing.assert_close(policy.temperature.log.grad, torch.tensor(0.01 * gap))
    assert policy.actor.net.out.bias.grad is None


class Costly(Adding):
    """Being away from the start costs, so that without a bonus the std falls to its least."""

    def predict(self, feat, *heads):
        feat = feat - torch.tensor(FEATURES)[:, None]
        return -feat[..., 0].square(), torch.ones(3, 2), *(head.mean(feat) for head in heads)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_learned_weight_holds_the_entropy_at_its_target(share):
    torch.manual_seed(1)
    policy = make(*HOLDING, f"actor.target_entropy={share}", "actor.entropy=0.1")
    parts = [module for module, _ in policy.list_parts().values()]
    optimizer = torch.optim.Adam([p for m in parts for p in m.parameters()], lr=0.02)
    entropies = []
    for _ in range(1500):
        optimizer.zero_grad()
        losses, found = policy.losses(Costly(), *starts())
        sum(losses.values()).backward()
        optimizer.step()
        entropies.append(found["entropy"].item())
    assert sum(entropies[-100:]) / 100 == pytest.approx(policy.target_entropy, abs=0.2)


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_entropy_is_a_gain(gradient):
    """Without rewards the loss is minus the weighted entropy, and a step down makes it grow."""
    policy = make(f"actor.gradient={gradient}", "actor.entropy=2")
    loss = losses_of(policy, Adding(torch.zeros(3, 2)))["actor"]
    std = policy.actor(torch.zeros(1)).std.item()
    entropy = 0.5 + DISTANCE + math.log(std)
    if gradient == "dynamics":
        check(loss, -2 * entropy * (1 + 0.25 + 0.1))
    before = policy.actor(torch.zeros(1)).entropy()
    torch.autograd.backward(loss)
    with torch.no_grad():
        policy.actor.net.out.bias -= 0.1 * policy.actor.net.out.bias.grad
    assert policy.actor(torch.zeros(1)).entropy() > before


def likelihood_loss(policy, baselines, share=1.0, scale=1.0, seed=3):
    """Minus the sum of weight, log-probability and advantage over the drawn actions, by hand."""
    torch.manual_seed(seed)
    draws = torch.stack([torch.randn(2, 1) for _ in range(3)])[:, 0, 0]  # those of the first start
    std = policy.actor(torch.zeros(1)).std.item()
    total = 0.0
    for weight, gain, base, z in zip(WEIGHTS, RETURNS, baselines, draws, strict=True):
        log_prob = -0.5 * z**2 - math.log(std) - DISTANCE
        total -= weight * share * log_prob * (gain - base) / scale
    return total.item()


def test_likelihood_ratios_count_returns_above_the_value_before_each_action():
    """The baselines of x, 2x + 1: at the start 2, then at what each action led to."""
    policy = make("actor.gradient=reinforce", value=(2.0, 1.0))
    model = Adding(REWARD, CONT)
    torch.manual_seed(3)
    loss = losses_of(policy, model)["actor"]
    arrivals = model.arrivals[:2, 0, 0].tolist()
    baselines = [2.0, *(2 * x + 1 for x in arrivals)]
    check(loss, likelihood_loss(policy, baselines))


def test_likelihood_ratios_move_the_actor_by_the_score_times_the_advantage():
    """The derivative by the mean's input m is -w (z / std) (1 - tanh(m)^2) (G - V)."""
    policy = make("actor.gradient=reinforce", output=(0.3, 0.0))
    torch.manual_seed(3)
    losses_of(policy)["actor"].backward()
    torch.manual_seed(3)
    draws = torch.stack([torch.randn(2, 1) for _ in range(3)])[:, 0, 0]
    std, slope = policy.actor(torch.zeros(1)).std.item(), 1 - math.tanh(0.3) ** 2
    check(policy.actor.net.out.bias.grad[0], *(-WEIGHTS * draws / std * slope * RETURNS).tolist())


def test_a_mix_takes_its_share_of_each():
    policy = make("actor.gradient=mix", "actor.mix=0.25")
    torch.manual_seed(3)
    loss = losses_of(policy)["actor"]
    check(loss, likelihood_loss(policy, [0.0] * 3, share=0.25), -0.75 * 3.2)


def test_gradients_flow_through_the_model_by_reparameterised_actions():
    """The reward is the place arrived at, so that dG_0 / dmean is 1 + d_0 (2 + d_1 3), and so on.

    The mean of the action moves by 1 - tanh(m)^2 = 1 at m = 0.
    """

    class Places(Adding):
        def predict(self, feat, *heads):
            return feat[..., 0], CONT, *(head.mean(feat) for head in heads)

    policy = make()
    losses_of(policy, Places())["actor"].backward()
    # The states that later returns start from carry the earlier actions as well.
    one, two, three = 1.0, 2.0, 3.0
    returns = [one + 0.25 * (two + 0.4 * three), two + 0.4 * three, three]
    check(
        policy.actor.net.out.bias.grad[0],
        *(-w * g for w, g in zip((1, 0.25, 0.1), returns, strict=True)),
    )


class Doubtful(Adding):
    """Its ensemble disagrees by the square of the sum of feature and action."""

    measure_rollout_disagreement = WorldModel.measure_rollout_disagreement

    def measure_disagreement(self, feat, action):
        return (feat + action)[..., 0].square()


def test_pessimism_takes_disagreement_from_rewards_with_its_gradient():
    policy = make("imag.pessimism=2", "ensemble.size=3")
    imagined = policy.imagine_rollouts(Doubtful(), {"x": starts()[1]["x"][0]})
    with torch.no_grad():
        clipped = imagined.action.clamp(-1, 1)
        arrived = torch.tensor(FEATURES).view(1, 2, 1) + clipped.cumsum(0)
    torch.testing.assert_close(imagined.reward, REWARD - 2 * arrived[..., 0].square())
    # The mean moves this action, and through the state that of the step before.
    (slope,) = torch.autograd.grad(imagined.reward[1, 0], policy.actor.net.out.bias)
    torch.testing.assert_close(slope[0], 2 * -4 * arrived[1, 0, 0])


def test_weights_pass_no_gradient():
    """d loss / d c_0 = -gamma (G_1 - nothing by w_1): only the return of the start holds d_0."""
    cont = CONT.clone().requires_grad_()
    losses_of(make(), Adding(cont=cont))["actor"].backward()
    check(cont.grad[0, 0], -0.5 * 3.6)
    check(cont.grad[1, 0], -(0.25 * 0.5 * 4.0 + 0.25 * 0.5 * 4.0))  # in G_0 and in G_1
    assert (cont.grad[:, 1] == 0).all()


def test_the_critic_learns_from_targets_that_get_no_gradient():
    reward, cont = REWARD.clone().requires_grad_(), CONT.clone().requires_grad_()
    policy = make(value=(0.0, 1.0))
    losses_of(policy, Adding(reward, cont))["critic"].backward()
    assert reward.grad is None and cont.grad is None
    # By the constant of the critic: the weighted sum of 1 - G
    check(policy.critic.net.out.bias.grad[0], -0.9 - 0.25 * 2.6 - 0.1 * 3.0)


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_returns_are_divided_by_their_range(gradient):
    """The six returns are 1.9, 3.6, 4.0 and, of rewards of 7, 9.45, 9.8 and 7.0."""
    policy = make(f"actor.gradient={gradient}", "actor.normalize=percentile")
    torch.manual_seed(3)
    loss = losses_of(policy)["actor"]
    low = 1.9 + 0.25 * (3.6 - 1.9)  # 5 % of the way along five gaps is a quarter of the first
    high = 9.8 - 0.25 * (9.8 - 9.45)
    scale = high - low
    if gradient == "dynamics":
        check(loss, -3.2 / scale)
    else:
        check(loss, likelihood_loss(policy, [0.0] * 3, scale=scale))


@pytest.mark.parametrize("bootstrap", ["online", "slow"])
def test_returns_are_bootstrapped_by_the_chosen_critic(bootstrap):
    policy = make(f"critic.bootstrap={bootstrap}", "critic.slow=ema", value=(0.0, 1.0))
    set_value(policy.slow, 0.0, 3.0)
    value = {"online": 1.0, "slow": 3.0}[bootstrap]
    last = 4 + 0.5 * value
    middle = 2 + 0.5 * last
    found = losses_of(policy, Adding(cont=torch.ones(3, 2)))["actor"]
    check(found, -(1 + 0.5 * middle + 0.5 * middle + 0.25 * last))


def test_the_slow_critic_pulls_with_its_weight():
    policy = make("critic.pull=0.5", "critic.slow=ema", value=(0.0, 1.0))
    set_value(policy.slow, 0.0, 4.0)
    squares = [(g - 1.0) ** 2 / 2 + 0.5 * (4.0 - 1.0) ** 2 / 2 for g in (1.9, 3.6, 4.0)]
    loss = losses_of(policy)["critic"]
    check(loss, squares[0], 0.25 * squares[1], 0.1 * squares[2])
    loss.backward()
    pulls = [-(g - 1.0) - 0.5 * 3.0 for g in (1.9, 3.6, 4.0)]
    check(policy.critic.net.out.bias.grad[0], pulls[0], 0.25 * pulls[1], 0.1 * pulls[2])


def test_the_replayed_loss_counts_rows_within_episodes():
    """Four rows in a sequence: the second ends an episode by time, the last terminates.

    Nothing is imagined from rows 0 and 2, whose values are the critic's own 1; a rollout from row
    1 and from row 3 is worth 6 and 8. With discount 0.5 and lambda 1 the target of row 0 is r_1 +
    0.5 * 6 and that of row 2 is r_3; row 1 is followed by another episode.
    """
    policy = make("critic.replay=0.25", value=(0.0, 1.0))
    model = Adding(REWARD[:, :1].expand(3, 4), CONT[:, :1].expand(3, 4))
    batch = {
        "is_terminal": torch.tensor([[False, False, False, True]]),
        "is_last": torch.tensor([[False, True, False, True]]),
        "reward": torch.tensor([[9.0, 2.0, 9.0, 5.0]]),
    }
    feat = torch.zeros(1, 4, 1, requires_grad=True)
    returns = torch.tensor([[6.0, 8.0], [99.0, 99.0]])
    loss = policy._replay_loss(batch, feat, returns, torch.tensor([1, 3]))
    torch.testing.assert_close(loss, torch.tensor(((5.0 - 1) ** 2 / 2 + (5.0 - 1) ** 2 / 2) / 3))
    found, _ = policy.losses(model, batch, {"x": feat.detach()}, feat)
    # Imagined from every row with the returns of 1.9: row 0 gets 2 + 0.95, row 2 gets 5
    wanted = 0.25 * ((2.95 - 1) ** 2 / 2 + (5.0 - 1) ** 2 / 2) / 3
    torch.testing.assert_close(found["critic_replay"], torch.tensor(wanted))


def test_choices_count_by_their_probability():
    """Two actions of 0.25 and 0.75: entropy, and log-probability times return, by hand."""
    space = ActionSpace(2, (2,), True)
    logits = math.log(0.25), math.log(0.75)

    class Still(Adding):
        def imagine_step(self, state, action, generator=None):
            self.actions = [*getattr(self, "actions", []), action[0]]
            return state

    given = "actor.gradient=reinforce", "actor.entropy=1", "actor.unimix=0"
    policy = make(*given, output=logits, space=space)
    model = Still()
    torch.manual_seed(0)
    loss = losses_of(policy, model)["actor"]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    total = -entropy * (1 + 0.25 + 0.1)
    for weight, gain, action in zip(WEIGHTS, RETURNS, model.actions, strict=True):
        total -= weight * gain * math.log([0.25, 0.75][int(action.argmax())])
    check(loss, total.item())


def test_frozen_weights_pass_gradients_on_and_get_none():
    layer = torch.nn.Linear(1, 1)
    x = torch.ones(1, 1, requires_grad=True)
    with freeze_weights(layer):
        layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None
