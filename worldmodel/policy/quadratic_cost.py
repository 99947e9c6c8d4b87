"""Quadratic costs of states and actions: known of a vector, or fitted to the rewards of a latent.

cost(x, u) = (x, 1)' F (x, 1) + control |u|^2      of the state after a step, and of its action

A fit to rewards r is the regression of -r on all products of two entries of (x, 1), with a small
ridge. The part of F that belongs to x must have no negative eigenvalue, or LQR would have no
optimum. So such eigenvalues become zero, and the linear part is fitted once more to what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-4  # share of the mean square of the products


@dataclass(frozen=True)
class QuadraticCost:
    form: Tensor  # F (n+1,n+1), symmetric
    control: float

    def measure_states(self, states: Tensor) -> Tensor:
        """(x, 1)' F (x, 1) (...) of states (...,n)."""
        full = add_one(states)
        return ((full @ self.form) * full).sum(-1)

    def measure(self, states: Tensor, actions: Tensor) -> Tensor:
        """The cost (...) of rollouts (...,T+1,n) and (...,T,A)."""
        effort = self.control * actions.square().sum((-2, -1))
        return self.measure_states(states[..., 1:, :]).sum(-1) + effort


def make_distance_cost(weights: Tensor, target: Tensor, control: float) -> QuadraticCost:
    """sum_i w_i (x_i - g_i)^2 by weights w (n,) and target g (n,)."""
    across = -(weights * target).unsqueeze(-1)
    last = (weights * target.square()).sum().view(1, 1)
    top = torch.cat([weights.diag(), across], 1)
    return QuadraticCost(torch.cat([top, torch.cat([across.mT, last], 1)]), control)


def fit_cost(states: Tensor, rewards: Tensor, control: float) -> QuadraticCost:
    """The cost of states (N,n) that predicts -rewards (N,) best."""
    size, mean = states.shape[-1], states.mean(0)
    scale = (states - mean).square().mean().sqrt().clamp(min=1e-12)
    x = (states - mean) / scale
    i, j = torch.triu_indices(size, size, device=x.device)
    products = x[:, i] * x[:, j]
    weights = solve_ridge(torch.cat([products, add_one(x)], 1), -rewards)
    square = x.new_zeros(size, size)
    square[i, j] = weights[: len(i)]
    values, vectors = torch.linalg.eigh(0.5 * (square + square.mT))
    square = vectors @ values.clamp(min=0).diag() @ vectors.mT
    linear = solve_ridge(add_one(x), -rewards - ((x @ square) * x).sum(-1))
    across = 0.5 * linear[:size].unsqueeze(-1)
    top = torch.cat([square, across], 1)
    form = torch.cat([top, torch.cat([across.mT, linear[size:].view(1, 1)], 1)])
    # back from x: (x, 1) is `move` times (state, 1)
    move = torch.eye(size + 1, dtype=x.dtype, device=x.device)
    move[:size] /= scale
    move[:size, size] = -mean / scale
    return QuadraticCost(move.mT @ form @ move, control)


def solve_ridge(inputs: Tensor, wanted: Tensor) -> Tensor:
    """The weights (m,) of the regression of (N,) on (N,m), whose last entry is 1 and free."""
    centre, level = inputs[:, :-1].mean(0), wanted.mean()
    apart = inputs[:, :-1] - centre
    gram = apart.mT @ apart
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    slopes = torch.linalg.solve(gram + ridge * unit, apart.mT @ (wanted - level))
    return torch.cat([slopes, (level - centre @ slopes).view(1)])


def add_one(states: Tensor) -> Tensor:
    """(x, 1) (...,n+1) of x (...,n)."""
    return F.pad(states, (0, 1), value=1.0)
