"""Gradient clipping, learning-rate schedules, and the optimisers AdamW and LaProp (Dreamer 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from worldmodel.config.schema import OptimConfig

Tensors = list[Tensor]


class Optimizer:
    """Moves parameters by their gradients; keeps moments of each parameter from its first step on.

    These are not torch.optim's, because the first one of those in a process imports the compiler
    (93 modules of torch._dynamo with torch 2.13): 2.3 to 2.9 s of processor time in eight starts,
    as much as `import torch` itself. AdamW calls the same fused kernel. As with torch.optim,
    nothing moves where an attribute `found_inf` holds a one.
    """

    COUNTER = torch.float32
    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float | Tensor,
        betas=(0.9, 0.999),
        eps: float = 1e-20,
        weight_decay=0.0,
    ):
        self.params, self.lr, self.betas, self.eps, self.weight_decay = (
            list(params),
            lr,
            betas,
            eps,
            weight_decay,
        )
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        params = [p for p in self.params if p.grad is not None]
        if not params:
            return
        states = [self._state_of(p) for p in params]
        steps, means, squares = ([s[k] for s in states] for k in ("step", "exp_avg", "exp_avg_sq"))
        self._move(params, [p.grad for p in params if p.grad is not None], steps, means, squares)

    def _move(
        self, params: Tensors, grads: Tensors, steps: Tensors, means: Tensors, squares: Tensors
    ) -> None:
        raise NotImplementedError

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        if p not in self.state:
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.state[p] = {
                "step": torch.zeros((), dtype=self.COUNTER, device=p.device),
                **moments,
            }
        return self.state[p]


class AdamW(Optimizer):
    """Adam with weight decay of its own (Loshchilov & Hutter 2019), in one kernel of torch's."""

    def _move(
        self, params: Tensors, grads: Tensors, steps: Tensors, means: Tensors, squares: Tensors
    ) -> None:
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            params,
            grads,
            means,
            squares,
            [],
            steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )
        if self.found_inf is not None:
            torch._foreach_sub_(steps, [self.found_inf] * len(steps))


class LaProp(Optimizer):
    """Normalise by the second moment first, then take momentum (Ziyin et al. 2020): steps stay
    bounded by lr.
    """

    COUNTER = torch.float64

    def _move(
        self, params: Tensors, grads: Tensors, steps: Tensors, means: Tensors, squares: Tensors
    ) -> None:
        beta1, beta2 = self.betas
        go: Tensor | float = 1.0
        if self.found_inf is not None:
            go = 1.0 - self.found_inf.double()
            grads = [torch.where(self.found_inf > 0, 0.0, g) for g in grads]
        # A list, since a lone tensor would be read on the CPU and added as a number.
        torch._foreach_add_(steps, [go] * len(steps) if isinstance(go, Tensor) else go)
        counts = torch._foreach_clamp_min(steps, 1)
        torch._foreach_mul_(squares, 1 - go * (1 - beta2))
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        size = torch._foreach_div(squares, _compute_corrections(beta2, counts))
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, self.eps)
        torch._foreach_mul_(means, 1 - go * (1 - beta1))
        torch._foreach_addcdiv_(means, grads, size, 1 - beta1)
        if self.weight_decay:
            torch._foreach_mul_(params, 1 - go * self.lr * self.weight_decay)
        rates = torch._foreach_reciprocal(_compute_corrections(beta1, counts))
        torch._foreach_mul_(rates, -go * self.lr)
        torch._foreach_add_(params, torch._foreach_mul(means, rates))


def _compute_corrections(beta: float, counts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """1 - beta^n: the share of a moving average from zero that is not the zero."""
    powers = torch._foreach_pow(beta, counts)
    torch._foreach_mul_(powers, -1)
    torch._foreach_add_(powers, 1)
    return powers


def clip_global(params: list[Tensor], most: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `most`; return the norm before."""
    return torch.nn.utils.clip_grad_norm_(params, most, foreach=True)


def clip_adaptive(params: list[Tensor], share: float, floor: float = 1e-3) -> Tensor:
    """Scale each tensor's gradient to at most `share` of the tensor's norm (AGC per tensor);
    return the joint norm before.
    """
    params = [p for p in params if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms = torch.stack(torch._foreach_norm(grads))
    sizes = torch.stack(torch._foreach_norm([p.detach() for p in params])).clamp(min=floor)
    shrink = (share * sizes / norms.clamp(min=1e-12)).clamp(max=1.0)
    torch._foreach_mul_(grads, list(shrink.unbind()))
    return norms.norm()


CLIPS: dict[str, Callable[[list[Tensor], float], Tensor]] = {
    "global": clip_global,
    "adaptive": clip_adaptive,
}


LOWEST = 0.01  # share of a learning rate that stays after its decay
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": AdamW, "laprop": LaProp}


class Optimizers:
    """One optimiser for each part of what learns: {name: (parameters, learning rate)}.

    `masked` ones are told by a tensor whether to step, and read their rates from tensors, so that
    nobody waits for a device and a CUDA graph can hold them.
    """

    def __init__(
        self, parts: Mapping[str, tuple[list[Tensor], float]], config: OptimConfig, masked: bool
    ):
        self.config, self.masked = config, masked
        parts = {k: part for k, part in parts.items() if part[0]}
        self.parts = {k: params for k, (params, _) in parts.items()}
        self.rates = {k: rate for k, (_, rate) in parts.items()}
        self.parameters = [p for part in self.parts.values() for p in part]
        self.each = {k: self._make(params, rate) for k, (params, rate) in parts.items()}

    def _make(self, params: list[Tensor], rate: float) -> Optimizer:
        o = self.config
        lr = torch.tensor(rate, device=params[0].device) if self.masked else rate
        return OPTIMIZERS[o.name](params, lr, eps=o.eps, weight_decay=o.weight_decay)

    def zero_grad(self) -> None:
        for optimizer in self.each.values():
            optimizer.zero_grad()

    def set_rates(self, update: int) -> None:
        """Set the learning rates for update number `update`.

        They rise linearly over `warmup` updates, and fall linearly from the first to the second
        update of `decay`, to the share LOWEST.
        """
        if update > self.config.warmup and not self.config.decay:
            return
        share = min(1.0, (update + 1) / max(1, self.config.warmup))
        if self.config.decay:
            first, last = self.config.decay
            fallen = min(1.0, max(0.0, (update - first) / (last - first)))
            share *= 1 - (1 - LOWEST) * fallen
        for name, optimizer in self.each.items():
            rate = self.rates[name] * share
            optimizer.lr = optimizer.lr.fill_(rate) if isinstance(optimizer.lr, Tensor) else rate

    def step(self, name: str, good: Tensor) -> None:
        """Move one part, if its numbers are good."""
        optimizer = self.each[name]
        if self.masked:
            optimizer.found_inf = (~good).float()
            optimizer.step()
        elif good:
            optimizer.step()

    def _enumerate_parameters(self) -> Iterator[tuple[int, dict[Any, Any], Tensor]]:
        """The number of every parameter, the states of its part, and the parameter."""
        i = 0
        for name, part in self.parts.items():
            for p in part:
                yield i, self.each[name].state, p
                i += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All states as flat named tensors."""
        return {
            f"{i}/{k}": v
            for i, states, p in self._enumerate_parameters()
            if p in states
            for k, v in states[p].items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly from what `state_dict()` returned."""
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            place, key = name.split("/")
            found.setdefault(int(place), {})[key] = value
        for i, _, p in self._enumerate_parameters():
            self._check(i, found.get(i, {}), p)
        for i, states, p in self._enumerate_parameters():
            states.pop(p, None)
            if i in found:
                # The fused optimiser walks memory, not coordinates: moments must lie as their
                # parameter does.
                laid_out = {
                    k: torch.empty_like(p).copy_(v)
                    if v.shape == p.shape
                    else v.clone().to(p.device)
                    for k, v in found[i].items()
                }
                states[p] = {k: v.detach() for k, v in laid_out.items()}

    def _check(self, i: int, found: dict[str, Tensor], p: Tensor) -> None:
        """Raise ValueError unless these are the states of a parameter, or none yet."""
        counter = OPTIMIZERS[self.config.name].COUNTER
        wanted = {
            "step": (torch.Size(), counter),
            "exp_avg": (p.shape, p.dtype),
            "exp_avg_sq": (p.shape, p.dtype),
        }
        kept = {k: (v.shape, v.dtype) for k, v in found.items()}
        if found and kept != wanted:
            raise ValueError(
                f"the optimiser's states of weight {i} are not those of a tensor {tuple(p.shape)}"
            )
