"""Jacobians and Hessians of functions of rows, by autograd or by finite differences.

A function maps rows (...,k), each on its own, to vectors (...,m) or to numbers (...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worldmodel.kernels import leave_to_torch

Function = Callable[[Tensor], Tensor]
STEP = 2.0**-8  # of a finite difference; a power of two, so that small numbers move exactly
JUMP = 0.1  # curvature of a difference above which the function is taken to jump there


def compute_jacobian(function: Function, rows: Tensor) -> Tensor:
    """The derivatives (...,m,k) of a function's vectors."""
    with torch.enable_grad(), leave_to_torch():
        x = rows.detach().requires_grad_()
        return _differentiate(function(x), x)


def compute_hessian(function: Function, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (...,k) and the second derivatives (...,k,k) of a function's numbers."""
    with torch.enable_grad(), leave_to_torch():
        x = rows.detach().requires_grad_()
        values = function(x)
        if not values.requires_grad:
            return torch.zeros_like(rows), rows.new_zeros(*rows.shape, rows.shape[-1])
        (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
        hessian = _differentiate(gradient, x)
    return gradient.detach(), 0.5 * (hessian + hessian.mT)


def _differentiate(vectors: Tensor, x: Tensor) -> Tensor:
    """The derivatives (...,m,k) of vectors (...,m) that rows (...,k) led to, each by its own."""
    size = vectors.shape[-1]
    if not vectors.requires_grad:
        return vectors.new_zeros(*vectors.shape, x.shape[-1])
    eye = torch.eye(size, dtype=vectors.dtype, device=vectors.device)
    each = eye.view(size, *[1] * (vectors.dim() - 1), size).expand(size, *vectors.shape)
    (found,) = torch.autograd.grad(vectors, x, each, is_grads_batched=True)
    return found.movedim(0, -2)


def estimate_jacobian(function: Function, rows: Tensor, entries: Sequence[int]) -> Tensor:
    """`compute_jacobian` by central differences in some entries of the rows, 0 in the others.

    Where the function jumps, only the side without the jump counts.
    """
    moves = STEP * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)[list(entries)]
    points = torch.stack([rows, *(rows + m for m in moves), *(rows - m for m in moves)])
    values = function(points)
    here, more, less = values[0], *values[1:].chunk(2)
    ahead, behind = more - here, here - less
    smaller = torch.where(ahead.abs() < behind.abs(), ahead, behind)
    change = torch.where((ahead - behind).abs() > JUMP, smaller, (ahead + behind) / 2)
    found = here.new_zeros(*here.shape, rows.shape[-1])
    found[..., list(entries)] = (change / STEP).movedim(0, -1)
    return found


def estimate_hessian(
    function: Function, rows: Tensor, entries: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """`compute_hessian` by central differences in some entries of the rows, 0 in the others."""
    moves = STEP * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)[list(entries)]
    count = len(moves)
    pairs = [(i, j) for i in range(count) for j in range(i + 1)]
    both = [moves[i] + moves[j] for i, j in pairs]
    alone = [rows, *(rows + m for m in moves), *(rows - m for m in moves)]
    values = function(torch.stack([*alone, *(rows + m for m in both), *(rows - m for m in both)]))
    here, more, less = values[0], values[1 : 1 + count], values[1 + count : 1 + 2 * count]
    up, down = values[1 + 2 * count :].chunk(2)
    gradient, hessian = torch.zeros_like(rows), rows.new_zeros(*rows.shape, rows.shape[-1])
    for i, entry in enumerate(entries):
        gradient[..., entry] = (more[i] - less[i]) / (2 * STEP)
    for (i, j), ahead, behind in zip(pairs, up, down, strict=True):
        straight = more[i] + more[j] + less[i] + less[j] - 2 * here
        second = (ahead + behind - straight) / (2 * STEP**2)
        hessian[..., entries[i], entries[j]] = hessian[..., entries[j], entries[i]] = second
    return gradient, hessian
