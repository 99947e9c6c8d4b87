"""Action distributions against integrals and counts."""

import math

import pytest
import torch

from worldmodel.model.networks import pick_indices
from worldmodel.policy.action_distributions import (
    CONTINUOUS,
    BoundedNormal,
    OneHotGroups,
    TanhNormal,
    TruncatedNormal,
    clip_actions,
)

GRID = torch.linspace(-1 + 5e-6, 1 - 5e-6, 200_001, dtype=torch.float64)
MEANS = [-1.5, 0.0, 0.4, 2.0]


def make(name, mean, raw, *batch):
    args = {
        "bounded": (0.1, 1.0),
        "tanh": (1e-4, 0.8),
        "squashed": (0.1, 1.0),
        "truncated": (0.1, 10.0),
    }[name]
    mean, raw = (torch.full((*batch, 1), x, dtype=torch.float64) for x in (mean, raw))
    return CONTINUOUS[name](mean, raw, *args)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(
    ("name", "raw"), [("tanh", -5.5), ("tanh", 0.0), ("truncated", -3.0), ("truncated", 1.0)]
)
def test_densities_of_bounded_support_integrate_to_one_and_to_their_entropy(name, raw, mean):
    dist = make(name, mean, raw)
    log_prob = dist.log_prob(GRID.unsqueeze(-1))
    density = log_prob.exp()
    assert torch.trapezoid(density, GRID).item() == pytest.approx(1, abs=5e-3)
    wanted = torch.trapezoid(-density * log_prob, GRID).item()
    # Tanh has no closed form: its entropy is one sample's estimate, averaged here.
    torch.manual_seed(0)
    found = make(name, mean, raw, 300_000 if name == "tanh" else 1).entropy().mean().item()
    assert found == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_samples_follow_their_density(name):
    dist = make(name, 0.6, 0.0)
    many = CONTINUOUS[name](
        dist.mean.expand(100_000).reshape(-1, 1) * 0 + 0.6, torch.zeros(100_000, 1), 0.1, 0.9
    )
    one = CONTINUOUS[name](torch.tensor([[0.6]]), torch.zeros(1, 1), 0.1, 0.9)
    drawn = many.sample(torch.Generator().manual_seed(0)).squeeze(-1)
    grid = torch.linspace(-4, 4, 80_001) if name == "bounded" else GRID.float()
    density = one.log_prob(grid.unsqueeze(-1)).exp()
    for share in (0.1, 0.5, 0.9):
        below = torch.cumulative_trapezoid(density, grid)
        quantile = grid[1:][(below / below[-1] - share).abs().argmin()]
        assert drawn.quantile(share).item() == pytest.approx(quantile.item(), abs=0.02)
    if name != "bounded":
        assert drawn.abs().max() < 1


def test_the_bounded_normal_by_hand():
    dist = BoundedNormal(torch.tensor([[0.0, 20.0]]), torch.tensor([[-2.0, 20.0]]), 0.1, 1.0)
    assert torch.allclose(dist.mode(), torch.tensor([[0.0, 1.0]])) and torch.allclose(
        dist.std, torch.tensor([0.55, 1.0])
    )
    wanted = (
        -0.5 * (0.3 / 0.55) ** 2
        - math.log(0.55)
        - 0.5 * math.log(2 * math.pi)
        - 0.5 * math.log(2 * math.pi)
    )
    assert dist.log_prob(torch.tensor([[0.3, 1.0]])).item() == pytest.approx(wanted, abs=1e-5)
    assert dist.entropy().item() == pytest.approx(
        math.log(2 * math.pi * math.e) + math.log(0.55), abs=1e-5
    )


def test_means_and_spreads_follow_the_networks_output_as_published():
    """Dreamer 1: 5 tanh(m / 5) and softplus(s + 5); Dreamer 2: tanh(m) and 2 sigmoid(s / 2)."""
    mean, raw = torch.tensor([[2.0]]), torch.tensor([[-1.5]])
    tanh, truncated = TanhNormal(mean, raw, 0.1, 20.0), TruncatedNormal(mean, raw, 0.1, 20.0)
    assert tanh.mean.item() == pytest.approx(5 * math.tanh(0.4))
    assert tanh.std.item() == pytest.approx(math.log(1 + math.exp(3.5)) + 0.1)
    assert truncated.mean.item() == pytest.approx(math.tanh(2.0))
    assert truncated.std.item() == pytest.approx(2 / (1 + math.exp(0.75)) + 0.1)
    for kind in (TanhNormal, TruncatedNormal):
        assert kind(mean, raw + 30, 0.1, 1.5).std.item() == pytest.approx(1.5)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_samples_carry_gradients_to_mean_and_spread(name):
    mean, raw = torch.zeros(500, 1, requires_grad=True), torch.zeros(500, 1, requires_grad=True)
    dist = CONTINUOUS[name](mean, raw, 0.1, 20.0)
    sample = dist.sample(torch.Generator().manual_seed(0))
    (sample.square()).sum().backward()
    assert (
        raw.grad is not None
        and raw.grad.abs().sum() > 0
        and mean.grad is not None
        and mean.grad.abs().sum() > 0
    )


def test_a_truncated_sample_moves_with_its_mean_as_the_truncation_lets_it():
    """The gradient of a sample against finite differences of the same quantile."""
    raw = torch.tensor([[0.3]], dtype=torch.float64)
    mean = torch.tensor([[0.2]], dtype=torch.float64, requires_grad=True)
    draw = lambda m: TruncatedNormal(m, raw, 0.1, 10.0).sample(torch.Generator().manual_seed(3))  # noqa: E731
    draw(mean).sum().backward()
    with torch.no_grad():
        wanted = (draw(mean + 1e-6) - draw(mean - 1e-6)) / 2e-6
    assert mean.grad.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_groups_of_choices_count_as_they_say():
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.5, -0.5]])
    dist = OneHotGroups(logits, (3, 2), 0.1)
    first = 0.9 * logits[0, :3].softmax(-1) + 0.1 / 3
    second = 0.9 * logits[0, 3:].softmax(-1) + 0.1 / 2
    many = OneHotGroups(logits.expand(50_000, 5), (3, 2), 0.1)
    drawn = many.sample(torch.Generator().manual_seed(0))
    assert (drawn[:, :3].sum(-1) == 1).all() and (drawn[:, 3:].sum(-1) == 1).all()
    assert torch.allclose(drawn.mean(0), torch.cat([first, second]), atol=0.01)
    entropy = -(first * first.log()).sum() - (second * second.log()).sum()
    assert dist.entropy().item() == pytest.approx(entropy.item(), abs=1e-5)
    action = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]])
    assert dist.log_prob(action).item() == pytest.approx(
        (first[2].log() + second[0].log()).item(), abs=1e-5
    )
    assert torch.equal(dist.mode().detach(), action)


def test_unlikely_choices_stay_possible():
    dist = OneHotGroups(torch.tensor([[100.0, -100.0]]), (2,), 0.01)
    assert dist.log_probs[0].exp().tolist()[0] == pytest.approx([0.995, 0.005])


def test_a_legal_action_is_in_the_box_and_passes_its_gradient():
    action = torch.tensor([-3.0, 0.5, 1.2], requires_grad=True)
    clip_actions(action).sum().backward()
    assert torch.equal(
        clip_actions(action).detach(), torch.tensor([-1.0, 0.5, 1.0])
    ) and torch.equal(action.grad, torch.ones(3))


def test_tanh_log_prob_is_finite_at_the_edges():
    dist = TanhNormal(torch.tensor([[9.0]]), torch.tensor([[0.0]]), 1e-4, 1000.0)
    assert (
        torch.isfinite(dist.log_prob(torch.tensor([[1.0]]))).all()
        and torch.isfinite(dist.entropy()).all()
    )


def test_draws_follow_probabilities_that_differ_by_orders_of_magnitude():
    probs = torch.tensor([[0.0, 0.5, 1e-3, 0.0, 0.499, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    uniform = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0))
    picks = pick_indices(probs.log().expand(200_000, 2, 6), uniform)
    shares = torch.stack([(picks[:, 0] == k).float().mean() for k in range(6)])
    assert (picks[:, 1] == 0).all() and shares[[0, 3, 5]].eq(
        0
    ).all()  # what is impossible never happens
    assert 7e-4 < shares[2] < 1.3e-3
    torch.testing.assert_close(shares, probs[0], atol=4e-3, rtol=0)


def test_a_draw_at_the_end_of_the_sum_is_still_a_class():
    logs = torch.full((1000, 32), -5.0).log_softmax(-1)
    assert pick_indices(logs, torch.full((1000,), 1 - 2**-24)).max() == 31
