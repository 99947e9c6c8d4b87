"""Gradient clipping and optimisers: Adam with a global clip, and LaProp with adaptive gradient clipping (Dreamer 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LaProp(torch.optim.Optimizer):
    """Normalise by the second moment first, then take momentum (Ziyin et al. 2020): steps stay bounded by lr."""

    def __init__(self, params: Iterable[Any], lr: float, betas=(0.9, 0.999), eps: float = 1e-20, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "LaProp takes no closure"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            if not self.state[p]:
                moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p] = {"step": torch.zeros(()), **moments}
        states = [self.state[p] for p in params]
        for s in states:
            s["step"] += 1
        grads = [p.grad for p in params if p.grad is not None]
        mean, square = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        corrections = [1 - beta2 ** s["step"].item() for s in states]
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        size = torch._foreach_div(square, corrections)
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, group["eps"])
        torch._foreach_mul_(mean, beta1)
        torch._foreach_addcdiv_(mean, grads, size, 1 - beta1)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        steps = torch._foreach_mul(mean, [-group["lr"] / (1 - beta1 ** s["step"].item()) for s in states])
        torch._foreach_add_(params, steps)


def clip_global(params: list[Tensor], most: float) -> Tensor:
    """Scale all gradients together so that their joint norm is at most `most`; the norm before."""
    return torch.nn.utils.clip_grad_norm_(params, most, foreach=True)


def clip_adaptive(params: list[Tensor], share: float, floor: float = 1e-3) -> Tensor:
    """Each tensor's gradient to at most `share` of the tensor's own norm (AGC per tensor); the joint norm before."""
    params = [p for p in params if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms = torch.stack(torch._foreach_norm(grads))
    sizes = torch.stack(torch._foreach_norm([p.detach() for p in params])).clamp(min=floor)
    shrink = (share * sizes / norms.clamp(min=1e-12)).clamp(max=1.0)
    torch._foreach_mul_(grads, list(shrink.unbind()))
    return norms.norm()


CLIPS: dict[str, Callable[[list[Tensor], float], Tensor]] = {"global": clip_global, "adaptive": clip_adaptive}
