"""Gradient clipping and optimisers: Adam with a global clip, and LaProp with adaptive gradient clipping (Dreamer 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from worldmodel.schema import OptimConfig


class LaProp(torch.optim.Optimizer):
    """Normalise by the second moment first, then take momentum (Ziyin et al. 2020): steps stay bounded by lr.

    As with torch's own optimisers, where an attribute `found_inf` holds a one nothing moves.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, params: Iterable[Any], lr: float | Tensor, betas=(0.9, 0.999), eps: float = 1e-20, weight_decay=0.0
    ):
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
        grads = [p.grad for p in params if p.grad is not None]
        go: Tensor | float = 1.0
        if self.found_inf is not None:
            go = 1.0 - self.found_inf.double()
            grads = [torch.where(self.found_inf > 0, 0.0, g) for g in grads]
        states = [self._state_of(p) for p in params]
        steps = [s["step"] for s in states]
        mean, square = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        # A list, since a lone tensor would be read on the CPU and added as a number.
        torch._foreach_add_(steps, [go] * len(steps) if isinstance(go, Tensor) else go)
        counts = torch._foreach_clamp_min(steps, 1)
        torch._foreach_mul_(square, 1 - go * (1 - beta2))
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        size = torch._foreach_div(square, _without(beta2, counts))
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, group["eps"])
        torch._foreach_mul_(mean, 1 - go * (1 - beta1))
        torch._foreach_addcdiv_(mean, grads, size, 1 - beta1)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - go * group["lr"] * group["weight_decay"])
        rates = torch._foreach_reciprocal(_without(beta1, counts))
        torch._foreach_mul_(rates, -go * group["lr"])
        torch._foreach_add_(params, torch._foreach_mul(mean, rates))

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        if not self.state[p]:
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.state[p] = {"step": torch.zeros((), dtype=torch.float64, device=p.device), **moments}
        return self.state[p]


def _without(beta: float, counts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """1 - beta^n: how much of an average that started from zero is not the zero."""
    powers = torch._foreach_pow(beta, counts)
    torch._foreach_mul_(powers, -1)
    torch._foreach_add_(powers, 1)
    return powers


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


class Optimizers:
    """One optimiser for each part of what learns: {name: (parameters, learning rate)}.

    `masked` ones are told by a tensor whether to step, and read their rates from tensors, so that nobody waits for a
    device and a CUDA graph can hold them.
    """

    def __init__(self, parts: Mapping[str, tuple[list[Tensor], float]], config: OptimConfig, masked: bool):
        self.config, self.masked = config, masked
        self.parts = {k: params for k, (params, _) in parts.items()}
        self.rates = {k: rate for k, (_, rate) in parts.items()}
        self.parameters = [p for part in self.parts.values() for p in part]
        self.each = {k: self._make(params, rate) for k, (params, rate) in parts.items()}

    def _make(self, params: list[Tensor], rate: float) -> torch.optim.Optimizer:
        o = self.config
        lr = torch.tensor(rate, device=params[0].device) if self.masked else rate
        if o.name == "laprop":
            return LaProp(params, lr=lr, eps=o.eps, weight_decay=o.weight_decay)
        return torch.optim.AdamW(params, lr, eps=o.eps, weight_decay=o.weight_decay, fused=True, capturable=self.masked)

    def zero_grad(self) -> None:
        for optimizer in self.each.values():
            optimizer.zero_grad(set_to_none=True)

    def warm_up(self, update: int) -> None:
        """Learning rates for update number `update`: linear from nothing over the first ones."""
        if update > self.config.warmup:
            return
        share = min(1.0, (update + 1) / max(1, self.config.warmup))
        for name, optimizer in self.each.items():
            for group in optimizer.param_groups:
                rate = self.rates[name] * share
                group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate

    def step(self, name: str, good: Tensor) -> None:
        """Move one part, if its numbers are good."""
        optimizer = self.each[name]
        if self.masked:
            optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
            optimizer.step()
        elif good:
            optimizer.step()

    def _placed(self) -> Iterator[tuple[int, dict[Any, Any], Tensor]]:
        """Every parameter with its place among all, and the states of its part."""
        i = 0
        for name, part in self.parts.items():
            for p in part:
                yield i, self.each[name].state, p
                i += 1

    def tensors(self) -> dict[str, Tensor]:
        """All states as flat named tensors."""
        return {f"{i}/{k}": v for i, states, p in self._placed() if p in states for k, v in states[p].items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue exactly where `tensors()` was taken."""
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            place, key = name.split("/")
            found.setdefault(int(place), {})[key] = value
        for i, _, p in self._placed():
            self._check(i, found.get(i, {}), p)
        for i, states, p in self._placed():
            # The fused optimiser walks memory, not coordinates: moments must lie as their parameter does.
            laid_out = {
                k: torch.empty_like(p).copy_(v) if v.shape == p.shape else v.clone().to(p.device)
                for k, v in found.get(i, {}).items()
            }
            states[p] = {k: v.detach() for k, v in laid_out.items()}

    def _check(self, i: int, found: dict[str, Tensor], p: Tensor) -> None:
        """ValueError unless these are the states that the optimiser keeps of a parameter, or none yet."""
        step = torch.float64 if self.config.name == "laprop" else torch.float32
        wanted = {"step": (torch.Size(), step), "exp_avg": (p.shape, p.dtype), "exp_avg_sq": (p.shape, p.dtype)}
        kept = {k: (v.shape, v.dtype) for k, v in found.items()}
        if found and kept != wanted:
            raise ValueError(f"the optimiser's states of weight {i} are not those of a tensor {tuple(p.shape)}")
