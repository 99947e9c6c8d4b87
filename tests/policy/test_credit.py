"""Which returns a reward, a value and a continuation count in, and by how much: on imagined and on
replayed steps.
"""

import pytest
import torch
from test_actor_critic import actor_critic

from worldmodel.model.dynamics import Rollout
from worldmodel.policy.actor_critic import compute_replay_returns
from worldmodel.spaces import ActionSpace

H, GAMMA, LAM = 5, 0.9, 0.8


class Clock:
    """A world whose state is the number of steps since the start, and whose predictions there
    stand in a table: entry k of `reward`, `cont` and `value` belongs to the k-th arrival.
    """

    def __init__(self):
        self.reward, self.value = (torch.randn(H + 1, requires_grad=True) for _ in range(2))
        self.cont = torch.rand(H + 1, requires_grad=True)
        self.dynamics = self

    def imagine_step(self, state, action, generator=None):
        assert action.shape == (len(state["count"]), 1)
        return {"count": state["count"] + 1}

    def features(self, state):
        return state["count"]

    def start_rollout(self, state, steps, generator=None):
        return Rollout(self, state, generator)

    def predict(self, feat, *heads):
        count = feat[..., 0].long()
        return [self.reward[count], self.cont[count], self.value[count]]


@pytest.fixture
def imagined(monkeypatch):
    """A clock, and the returns and weights (H,N) that an actor-critic makes of it."""
    torch.manual_seed(0)
    world = Clock()
    learner = actor_critic(
        ActionSpace(1),
        1,
        f"imag.horizon={H}",
        f"imag.discount={GAMMA}",
        f"imag.lam={LAM}",
        "actor.gradient=dynamics",
        "actor.normalize=none",
        "critic.pull=0",
        slow="none",
    )
    kept = {}
    fit = learner._critic_loss

    def keep(feats, returns, weight):
        kept["weight"] = weight
        return fit(feats, returns, weight)

    def keep_graph(rollouts, returns, weight):
        kept["returns"] = returns
        return returns.sum(), returns

    monkeypatch.setattr(learner, "_critic_loss", keep)
    monkeypatch.setattr(learner, "_actor_loss", keep_graph)
    batch = {"is_terminal": torch.tensor([[False, True]])}
    start = {"count": torch.zeros(1, 2, 1)}
    learner.losses(world, batch, start, start["count"])
    return world, kept["returns"], kept["weight"]


def differentiate(returns, table):
    """How much of each entry (H+1,) counts in the return of each of H states, (H,H+1)."""
    return torch.stack([torch.autograd.grad(g, table, retain_graph=True)[0] for g in returns])


def test_an_imagined_reward_counts_in_the_returns_before_it_by_powers_of_gamma_lambda(imagined):
    world, returns, _ = imagined
    found = differentiate(returns[:, 0], world.reward)
    for t in range(H):
        for k in range(H + 1):
            share = 0.0
            if k > t:
                share = (GAMMA * LAM) ** (k - 1 - t) * world.cont[t + 1 : k].prod().item()
            assert found[t, k].item() == pytest.approx(share, abs=1e-6), (t, k)


def test_an_imagined_value_counts_on_arrival_and_the_last_one_in_full(imagined):
    """The start's own value is in no return, and the last arrival's stands for all after it."""
    world, returns, _ = imagined
    found = differentiate(returns[:, 0], world.value)
    for t in range(H):
        for k in range(H + 1):
            share = 0.0
            if k > t:
                alive = GAMMA ** (k - t) * world.cont[t + 1 : k + 1].prod().item()
                share = LAM ** (k - 1 - t) * alive * (1.0 if k == H else 1 - LAM)
            assert found[t, k].item() == pytest.approx(share, abs=1e-6), (t, k)


def test_a_continuation_counts_in_the_returns_before_it_alone(imagined):
    world, returns, _ = imagined
    found = differentiate(returns[:, 0], world.cont)
    assert not found.tril().any(), "a state's own continuation is settled before its return"
    assert (found.triu(1)[:, 1:].diagonal() != 0).all()


def test_the_weight_of_an_imagined_state_counts_the_continuations_up_to_it(imagined):
    world, _, weight = imagined
    alive = torch.cat([torch.ones(1), GAMMA * world.cont[1:H]]).cumprod(0)
    assert weight[:, 0].tolist() == pytest.approx(alive.tolist())
    assert not weight[:, 1].any(), "nothing is imagined from a terminal state"
    assert not weight.requires_grad


def test_a_replayed_reward_or_value_counts_within_its_episode_alone():
    length, border = 7, 3  # row 3 ends an episode, row 4 begins the next
    g = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(1, length, generator=g, requires_grad=True) for _ in range(2))
    last = torch.zeros(1, length)
    last[0, border] = 1.0
    returns = compute_replay_returns(reward, value, torch.full((1, length), GAMMA), last, LAM)
    by_reward, by_value = (differentiate(returns[0], x)[:, 0] for x in (reward, value))
    for t in [t for t in range(length - 1) if t != border]:  # the loss leaves out an end's row
        end = border if t < border else length - 1
        for s in range(length):
            of_reward = of_value = 0.0
            if t < s <= end:
                of_reward = (GAMMA * LAM) ** (s - t - 1)
                of_value = of_reward * GAMMA * (1.0 if s == end else 1 - LAM)
            assert by_reward[t, s].item() == pytest.approx(of_reward, abs=1e-6), (t, s)
            assert by_value[t, s].item() == pytest.approx(of_value, abs=1e-6), (t, s)
