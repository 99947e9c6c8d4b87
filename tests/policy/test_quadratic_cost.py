"""Quadratic costs: of distances, and fitted to rewards, whose curvature is never negative."""

import pytest
import torch

from worldmodel.policy import quadratic_cost
from worldmodel.policy.quadratic_cost import QuadraticCost, fit_cost, make_distance_cost

WIDE = {"dtype": torch.float64}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_the_cost_of_distances_is_the_sum_of_weighted_squares(generator):
    weights, target = torch.tensor([1.0, 0.5, 0.2], **WIDE), torch.tensor([0.3, 0.0, 1.0], **WIDE)
    cost = make_distance_cost(weights, target, 0.1)
    states = torch.randn(4, 6, 3, generator=generator, **WIDE)
    actions = torch.randn(4, 5, 2, generator=generator, **WIDE)
    wanted = (weights * (states[:, 1:] - target).square()).sum((1, 2))
    wanted += 0.1 * actions.square().sum((1, 2))
    torch.testing.assert_close(cost.measure(states, actions), wanted)
    one = cost.measure_states(states[:, 0])
    torch.testing.assert_close(one, (weights * (states[:, 0] - target).square()).sum(1))


def test_a_quadratic_cost_is_recovered_from_rewards(generator, monkeypatch):
    """Of latents that lie far from the origin, and of a direction that costs nothing."""
    monkeypatch.setattr(quadratic_cost, "RIDGE", 1e-12)
    root = torch.randn(2, 3, generator=generator, **WIDE)
    goal = torch.tensor([0.5, -2.0, 1.0], **WIDE)
    states = 5 + 0.3 * torch.randn(200, 3, generator=generator, **WIDE)
    rewards = 0.7 - ((states - goal) @ root.mT).square().sum(1)
    found = fit_cost(states, rewards, 0.1)
    torch.testing.assert_close(found.form[:3, :3], root.mT @ root, atol=1e-5, rtol=1e-5)
    other = 5 + 3 * torch.randn(50, 3, generator=generator, **WIDE)
    wanted = ((other - goal) @ root.mT).square().sum(1) - 0.7
    torch.testing.assert_close(found.measure_states(other), wanted, atol=1e-3, rtol=1e-4)
    assert found.control == 0.1


def test_curvature_that_lqr_could_not_minimise_becomes_none(generator):
    """Rewards that grow away from a saddle: the best fit is flat there, and linear."""
    states = torch.randn(5000, 2, generator=generator, **WIDE)
    rewards = -states[:, 0].square() + 0.5 * states[:, 1].square() + 2 * states[:, 1]
    found = fit_cost(states, rewards, 0.1)
    values = torch.linalg.eigvalsh(found.form[:2, :2])
    assert (values > -1e-9).all() and values[0] < 1e-6
    torch.testing.assert_close(found.form[0, 0].item(), 1.0, atol=0.01, rtol=0)
    # the slope is that of the regression on what the curvature leaves
    rest = -rewards - states[:, 0].square()
    rest, centred = rest - rest.mean(), states - states.mean(0)
    slopes = torch.linalg.lstsq(centred, rest.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(2 * found.form[:2, 2], slopes, atol=0.02, rtol=0)


def test_latents_that_do_not_move_are_no_reason_to_fail():
    found = fit_cost(torch.ones(20, 3, **WIDE), torch.linspace(0, 1, 20, **WIDE), 0.1)
    assert isinstance(found, QuadraticCost) and found.form.isfinite().all()
    torch.testing.assert_close(found.measure_states(torch.ones(3, **WIDE)).item(), -0.5)
