"""Quadratic costs of distances."""

import pytest
import torch

from worldmodel.policy.quadratic_cost import make_distance_cost

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
