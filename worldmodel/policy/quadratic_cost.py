"""Quadratic costs of states and actions.

cost(x, u) = (x, 1)' F (x, 1) + control |u|^2      of the state after a step, and of its action

Of a vector F is known, as distances from a target. Of a latent it is the squared distance
|W (z - g)|^2 by which a reward head explains rewards, so that LQR always has an optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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


def add_one(states: Tensor) -> Tensor:
    """(x, 1) (...,n+1) of x (...,n)."""
    return F.pad(states, (0, 1), value=1.0)
