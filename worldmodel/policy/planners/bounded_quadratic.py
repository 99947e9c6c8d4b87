"""Quadratic programs in a box by projected Newton steps, many small ones at once (Tassa, Mansard
and Todorov 2014, section III-B; Bertsekas 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS, HALVINGS = 100, 60
SHRINK, SUFFICIENT = 0.6, 0.1  # of a step that gains too little, and of the gain it promises
CLOSE = 1e-10  # of the gradient in free entries, relative to the largest of the problem


@dataclass
class Solution:
    """Where the quadratic is least (B,m), and which entries are free there."""

    x: Tensor
    free: Tensor
    factor: Tensor  # Cholesky factor of the Hessian, with the identity in clamped entries
    fails: Tensor  # (B,), where the Hessian is not positive definite in the free entries

    def divide(self, right: Tensor) -> Tensor:
        """The inverse Hessian of the free entries times (B,m,n), 0 in those at a bound."""
        free = self.free.unsqueeze(-1)
        return torch.cholesky_solve(torch.where(free, right, 0.0), self.factor) * free


def minimize_in_box(
    hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, start: Tensor
) -> Solution:
    """Minimise 1/2 x' H x + g' x over low <= x <= high, for H (B,m,m) and (B,m) of the others."""
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    finite = torch.isfinite(hessian).flatten(1).all(1)
    tolerance = CLOSE * (gradient.abs().amax(-1) + hessian.abs().amax((-2, -1)) + 1e-12)
    x, is_exact = start.clamp(low, high), False
    free_before = torch.zeros_like(x).bool()
    for _ in range(ROUNDS):
        slope = gradient + (hessian @ x.unsqueeze(-1)).squeeze(-1)
        free = ~((x <= low) & (slope > 0) | (x >= high) & (slope < 0))
        if is_exact and torch.equal(free, free_before):
            break  # Newton's step solved this, and no entry wants to leave its bound
        both = free.unsqueeze(-1) & free.unsqueeze(-2)
        factor, info = torch.linalg.cholesky_ex(torch.where(both, hessian, eye))
        fails = (info > 0) | ~finite
        if fails.any():
            factor = torch.where(fails[:, None, None], eye, factor)
        downhill = torch.where(free & ~fails.unsqueeze(-1), slope, 0.0)
        moving = downhill.abs().amax(-1) > tolerance
        if not moving.any():
            break
        step = -torch.cholesky_solve(downhill.unsqueeze(-1), factor).squeeze(-1)
        taken, moved = take_step(hessian, slope, x, step, low, high)
        moving = moving & moved
        if not moving.any():
            break
        is_exact, free_before = torch.equal(taken, x + step), free
        x = torch.where(moving.unsqueeze(-1), taken, x)
    return Solution(x, free, factor, fails)


def take_step(
    hessian: Tensor, slope: Tensor, x: Tensor, step: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Where (B,m) the first projected step ends that lowers the value by a share of what its slope
    promises (Armijo), and where (B,) there is one.
    """

    def suffices(change: Tensor) -> Tensor:
        promised = (slope * change).sum(-1)
        curved = (change * (hessian @ change.unsqueeze(-1)).squeeze(-1)).sum(-1)
        return promised + 0.5 * curved <= SUFFICIENT * promised

    whole = (x + step).clamp(low, high)
    fine = suffices(whole - x)
    if fine.all():
        return whole, fine
    sizes = SHRINK ** torch.arange(HALVINGS, dtype=x.dtype, device=x.device)[:, None, None]
    tried = (x + sizes * step).clamp(low, high)
    fine = suffices(tried - x)
    first = fine.int().argmax(0)
    return tried.gather(0, first[None, :, None].expand(1, *x.shape)).squeeze(0), fine.any(0)
