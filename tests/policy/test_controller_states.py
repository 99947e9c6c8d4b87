"""Controllers of a latent (SOLAR): what they see, what is fitted to it, and that they get to the
optimum.
"""

import numpy as np
import pytest
import torch
from torch import nn

from worldmodel import build
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.policy.controller_states import Column, Rollouts
from worldmodel.policy.guided_policy import UNKNOWN
from worldmodel.policy.local_models import Prior, fit_local_models, measure_spread
from worldmodel.spaces import ActionSpace, ObservationSpace

STEPS, ROLLOUTS, PUSH = 12, 8, 0.3
KEYS = [
    "tiny",
    "env.obs=state",
    "behavior.name=guided",
    "model.dynamics=linear_gaussian",
    "model.stoch=2",
    "model.reward_head=quadratic",
    "guided.state=latent",
    "guided.conditions=1",
    f"guided.rollouts={ROLLOUTS}",
    f"guided.steps={STEPS}",
    "guided.control=0.5",
    "guided.prior=0.5",
]
MATRIX = torch.tensor([[1.0, PUSH], [0.0, 1.0]])
GAIN = torch.tensor([[PUSH**2], [PUSH]])
WEIGHTS = torch.tensor([1.0, 0.1])


class Exact(nn.Module):
    """Potentials that are observations, nearly without noise."""

    def forward(self, embed):
        return torch.cat([embed, torch.full_like(embed, -20.0)], -1)


def make(*overrides, knows=True):
    """A model whose latent is the observed vector, and which may know how that moves."""
    c = loading.parse([*KEYS, *overrides])
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"vector": (2,)}), ActionSpace(1))
    model.encode = lambda batch, encoder=None: batch["vector"]
    model.dynamics.post_net = Exact()
    own = model.dynamics.prior_net
    with torch.no_grad():
        own.min_std = 0.01
        own.raw_noise.fill_(-20.0)
        model.reward.weight.copy_(WEIGHTS.sqrt().diag())
        if knows:
            own.change.copy_(MATRIX - torch.eye(2))
            own.gain.copy_(GAIN)
    model.dynamics.latent.min_std = 1e-3
    policy = build.make_policy(c, model, ActionSpace(1))
    return c, model, policy, build.make_behavior(c, model, ActionSpace(1), policy)


def play_episode(model, policy, behavior, generator, start, drift=0.0, mode="train"):
    """A mass on a line, rewarded by minus its squared distance from 0; its states (T+1,2)."""
    vector, action, carry = start[None], torch.zeros(1, 1), behavior.init(1)
    state, states, reward = model.dynamics.initial(1), [], 0.0
    for t in range(STEPS + 1):
        row = {
            "vector": vector[0].numpy(),
            "prev_action": action[0].numpy(),
            "reward": np.float32(reward),
            "is_first": t == 0,
            "is_last": t == STEPS,
        }
        first = torch.tensor([t == 0])
        state = model.dynamics.observe_step(state, vector, action, first, generator)
        with torch.no_grad():
            action, carry = behavior.act(state, carry, first, mode, generator)
        if mode == "train":
            policy.watch(model, [row], carry)
        states.append(vector[0])
        vector = vector @ MATRIX.mT + action @ GAIN.mT + drift
        reward = -float((WEIGHTS * vector[0].square()).sum())
    return torch.stack(states)


def play_round(model, policy, behavior, generator, drift=0.0):
    for _ in range(ROLLOUTS):
        start = torch.tensor([1.0, 0.0]) + 0.2 * torch.randn(2, generator=generator)
        play_episode(model, policy, behavior, generator, start, drift)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_what_controllers_of_a_latent_cannot_have_is_refused():
    for keys, message in (
        (["model.dynamics=rssm"], "guided.state: latent needs model.dynamics linear_gaussian"),
        (["model.dynamics=locally_linear"], "and moves linearly; locally_linear has none"),
        (
            ["model.reward_head=twohot"],
            "from model.reward_head quadratic or bell; twohot has none",
        ),
        (["guided.conditions=2"], "guided.conditions: 2 controllers tell starts apart"),
        (["guided.state=vector"], "model.unseen: guided policy search has teachers"),
        (["guided.state=vector", "guided.rank=2"], "guided.rank: the cost of guided.state vector"),
        (["loss.reward=0"], "loss.reward: 0 does not train the reward head"),
        (["model.reward_head=bell"], "guided.kl_limits: .* of a bell, which differ"),
    ):
        with pytest.raises(loading.ConfigError, match=message):
            loading.parse([*KEYS, *keys])
    c = loading.parse(KEYS)
    with pytest.raises(UsageError, match="guided needs continuous actions"):
        seen, two = ObservationSpace({"vector": (2,)}), ActionSpace(2, groups=(2,))
        build.make_policy(c, build.make_model(c, seen, two), two)


@pytest.mark.parametrize("head", ["quadratic", "bell"])
def test_the_cost_is_the_squared_distance_of_the_reward_head(generator, head):
    _, model, policy, _ = make(f"model.reward_head={head}", "guided.kl_limits=[1.0, 1.0]")
    with torch.no_grad():
        for part in model.reward.parameters():
            part.normal_(generator=generator)
        states = torch.randn(4, 7, 2, generator=generator)
        cost = policy.states.find_cost(model, states)
        torch.testing.assert_close(cost.measure_states(states), model.reward.measure_gap(states))
    assert (torch.linalg.eigvalsh(cost.form[:2, :2].detach()) >= 0).all() and cost.control == 0.5
    policy.states.rank = 1
    form = policy.states.find_cost(model, states).form.detach()
    assert torch.linalg.matrix_rank(form[:2, :2], atol=1e-4) == 1


def test_the_cost_is_fitted_to_rewards_by_the_training_of_the_head(generator):
    _, model, policy, _ = make()
    states = torch.randn(200, 2, generator=generator)
    goal = torch.tensor([0.4, -0.3])
    rewards = 0.7 - ((states - goal).square() * torch.tensor([2.0, 0.5])).sum(1)
    optimizer = torch.optim.Adam(model.reward.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        model.reward.loss(states, rewards).mean().backward()
        optimizer.step()
    form = policy.states.find_cost(model, states).form.detach()
    wanted = torch.tensor([[2.0, 0.0, -0.8], [0.0, 0.5, 0.15], [-0.8, 0.15, 0.365]])
    torch.testing.assert_close(form, wanted, atol=0.01, rtol=0)


def test_starts_of_one_condition_may_be_fixed_in_any_number():
    assert loading.parse([*KEYS, "env.starts=7"]).env.starts == 7


def test_controllers_see_the_mean_of_the_filtered_belief(generator):
    _, model, policy, behavior = make()
    model.dynamics.post_net = nn.Linear(2, 4)
    state = model.dynamics.initial(1)
    vectors, actions = torch.randn(5, 1, 2), torch.randn(5, 1, 1)
    for t in range(5):
        first = torch.tensor([t == 0])
        state = model.dynamics.observe_step(state, vectors[t], actions[t], first, generator)
    seen = policy.states.see(model, state, {})
    batch = {
        "vector": vectors.transpose(0, 1),
        "prev_action": actions.transpose(0, 1),
        "is_first": torch.zeros(1, 5, dtype=torch.bool),
    }
    torch.testing.assert_close(seen, model.infer_states(batch)["filter_mean"][:, -1])
    assert not torch.allclose(seen, state["stoch"])
    behavior.evaluates = "controllers"
    policy.teacher_gain[0, 0] = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    with torch.no_grad():
        action, _ = behavior.act(state, behavior.init(1), torch.tensor([True]), "eval", generator)
    torch.testing.assert_close(action, (seen @ torch.tensor([[0.1], [-0.2]])).detach())


def test_states_of_rollouts_are_smoothed_means_under_the_model_as_it_is(generator):
    _, model, policy, behavior = make("guided.rollouts=9")
    play_round(model, policy, behavior, generator)
    assert policy.round == 0 and policy.filled.sum() == ROLLOUTS
    model.dynamics.post_net = nn.Linear(2, 4)
    with torch.no_grad():
        model.dynamics.prior_net.first.normal_()  # an episode begins otherwise than it goes on
        found = policy.states.infer(model, policy.new)
        batch = {
            "vector": policy.new.rows["vector"][0],
            "prev_action": torch.cat([torch.zeros(9, 1, 1), policy.new.actions[0].float()], 1),
            "is_first": torch.arange(STEPS + 1).expand(9, -1) == 0,
        }
        smoothed, filtered = model.observe(batch)[1]["mean"], model.infer_states(batch)["mean"]
        torch.testing.assert_close(found[0].float(), smoothed)
        assert not torch.allclose(found[0].float(), filtered)
        model.dynamics.post_net.weight.mul_(2.0)  # the latent moves while the model learns
        assert not torch.allclose(policy.states.infer(model, policy.new), found)


def test_local_models_recover_a_linear_system_from_latents(generator):
    """Whatever global model is their prior, if it counts as few rollouts."""
    _, model, policy, behavior = make("guided.rollouts=9", knows=False)
    play_round(model, policy, behavior, generator, drift=torch.tensor([0.05, -0.1]))
    with torch.no_grad():
        states = policy.states.infer(model, policy.new)[:, 1:ROLLOUTS]
        actions = policy.new.actions[:, 1:ROLLOUTS]
        first = policy.states.make_global_model(model, states, actions)
    for part, own in zip(vars(first).values(), model.dynamics.read_model(), strict=True):
        torch.testing.assert_close(part, own.detach().double())
    prior = Prior(first, measure_spread(states, actions), 0.0, 1e-4)
    found = fit_local_models(states, actions, prior)
    for t in range(STEPS):
        torch.testing.assert_close(found.matrix[0, t].float(), MATRIX, atol=0.03, rtol=0)
        torch.testing.assert_close(found.gain[0, t].float(), GAIN, atol=0.03, rtol=0)
    drift = torch.tensor([0.05, -0.1]).expand(STEPS, 2)
    torch.testing.assert_close(found.offset[0].float(), drift, atol=0.03, rtol=0)
    assert (first.matrix.float() - MATRIX).abs().max() > 0.2


def test_controllers_reach_the_optimum_of_a_linear_quadratic_system(generator):
    """Their cost without noise, against Riccati's of the true system, which they never see."""
    _, model, policy, behavior = make("guided.kl=5")
    for _ in range(12):
        play_round(model, policy, behavior, generator)
    assert policy.round == 12 and not policy.filled.any()
    behavior.evaluates = "controllers"
    start = torch.tensor([0.6, 0.1])
    states = play_episode(model, policy, behavior, generator, start, mode="eval").double()
    forces = (states[1:, 1] - states[:-1, 1]) / PUSH
    cost = (WEIGHTS.double() * states[1:].square()).sum() + 0.5 * forces.square().sum()
    a, b, q = MATRIX.double().numpy(), GAIN.double().numpy(), torch.diag(WEIGHTS).double().numpy()
    value = np.zeros((2, 2))
    for _ in range(STEPS):
        ahead = q + value
        gain = -np.linalg.solve(0.5 + b.T @ ahead @ b, b.T @ ahead @ a)
        value = a.T @ ahead @ (a + b @ gain)
    best = float(start.double().numpy() @ value @ start.double().numpy())
    assert best - 1e-6 <= cost <= 1.03 * best, (cost, best)
    assert cost < 0.7 * STEPS * 0.6**2  # what doing nothing costs, and more


def test_what_was_tried_in_a_latent_is_never_given_up_and_the_newest_teach(generator):
    _, model, policy, behavior = make()
    play_round(model, policy, behavior, generator)
    policy.tried_gain.fill_(0.0)
    policy.tried_offset.fill_(1.0)  # runs away
    play_round(model, policy, behavior, generator)
    assert (policy.base_offset == 1.0).all() and not policy.base_gain.any()
    assert torch.equal(policy.teacher_gain, policy.tried_gain)
    assert torch.equal(policy.teacher_hold_gain[0], policy.hold_gain)


def test_a_round_costs_the_mean_over_its_rollouts(generator):
    _, model, policy, behavior = make("guided.rollouts=3")
    starts = [torch.tensor([x, 0.0]) for x in (1.0, -0.5, 0.3)]
    played = [play_episode(model, policy, behavior, generator, s).double() for s in starts]
    costs = []
    for states in played:
        forces = (states[1:, 1] - states[:-1, 1]) / PUSH
        cost = (WEIGHTS.double() * states[1:].square()).sum() + 0.5 * forces.square().sum()
        costs.append(cost)
    torch.testing.assert_close(policy.costs[0], torch.stack(costs).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(policy.teacher_costs[0], costs[0], atol=1e-5, rtol=1e-5)


def test_under_a_large_prior_the_slopes_are_those_of_the_dynamics(generator):
    _, model, policy, behavior = make("guided.prior=1e12", "guided.kl=3")
    used = []
    improve = policy._improve_steps

    def watch(states, actions, cost, prior):
        used.append(fit_local_models(states, actions, prior, 1))
        improve(states, actions, cost, prior)

    policy._improve_steps = watch
    with torch.no_grad():
        model.dynamics.prior_net.gain.copy_(2 * GAIN)
    play_round(model, policy, behavior, generator)
    (found,) = used
    torch.testing.assert_close(found.gain.float(), (2 * GAIN).expand_as(found.gain))
    torch.testing.assert_close(found.matrix.float(), MATRIX.expand_as(found.matrix))


def test_replayed_steps_are_taught_at_their_latents(generator):
    _, model, policy, _ = make()
    policy.round.fill_(1)
    policy.teacher_gain.normal_()
    batch = {
        "guide_step": torch.tensor([[2, 3]], dtype=torch.int32),
        "guide_condition": torch.tensor([[0, UNKNOWN]], dtype=torch.int32),
        "guide_round": torch.tensor([[1, 1]], dtype=torch.int32),
    }
    mean = torch.randn(1, 2, 2)
    post = {"mean": mean, "stoch": torch.randn(1, 2, 2)}
    losses, _ = policy.losses(model, batch, post, mean)
    wanted = (policy.teacher_gain[0, 2] @ mean[0, 0].double()).clamp(-1, 1)
    gap = (policy.choose(mean).mode()[0, 0] - wanted).square().sum() / (2 * 0.2**2)
    torch.testing.assert_close(losses["imitation"].double(), gap.double())


def test_rollouts_hold_rows_of_their_own_types():
    owner, column = nn.Module(), Column("picture", (2, 2, 3), torch.uint8)
    kept = Rollouts(owner, "new", {"image": column}, (2,), 3, 1)
    row = {"image": np.full((2, 2, 3), 200, np.uint8), "prev_action": np.ones(1, np.float32)}
    kept.keep_step(1, 2, row)
    assert (kept.rows["image"][1, 2] == 200).all() and kept.rows["image"].dtype == torch.uint8
    assert kept.rows["image"].float().mean() == 200 / 8
    assert kept.actions.flatten().tolist() == [0, 0, 0, 0, 1, 0]
    assert list(owner.state_dict()) == ["new_picture", "new_actions"]
