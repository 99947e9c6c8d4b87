"""Returns and their scale. Entry t in time belongs to the state that step t arrives at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def lambda_returns(
    reward: Tensor, value: Tensor, discount: Tensor, lam: float | Tensor, dim: int = 1
) -> Tensor:
    """The lambda-return of the state before each step, from tensors of one shape (Dreamer 1, eq. 6
    with weights); time is `dim`.

        G_t = reward_t + discount_t ((1 - lam) value_t + lam G_{t+1})
        G_H = value of the last arrival

    `discount` includes the continuation probability: zero where the episode terminates on
    arrival. `lam` may differ by step.
    """
    mix = lam.expand_as(reward) if isinstance(lam, Tensor) else torch.full_like(reward, lam)
    steps = [x.unbind(dim) for x in (reward, value, discount, mix)]
    later = value.select(dim, -1)
    found = []
    for r, v, d, m in reversed(list(zip(*steps, strict=True))):
        later = r + d * ((1 - m) * v + m * later)
        found.append(later)
    return torch.stack(found[::-1], dim)


class ReturnScale(nn.Module):
    """A running range of returns, 5th to 95th percentile, never below one (Dreamer 3, eq. 7)."""

    def __init__(
        self, decay: float = 0.99, low: float = 0.05, high: float = 0.95, floor: float = 1.0
    ):
        super().__init__()
        self.decay, self.floor = decay, floor
        self.range: Tensor
        self.seen: Tensor
        self.register_buffer("range", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.quantiles: Tensor
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)

    @torch.no_grad()
    def update(
        self, returns: Tensor, over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Add returns to the range; return what to divide by. Early averages are corrected for
        their start from zero.

        `over_ranks` adds the returns (N,) of other processes, so that all divide by the same.
        """
        seen = returns.float().flatten()
        seen = over_ranks(seen) if over_ranks else seen
        low, high = torch.quantile(seen, self.quantiles)
        finite = torch.isfinite(high - low)
        for kept, value in ((self.range, high - low), (self.seen, torch.ones_like(self.seen))):
            kept.copy_(torch.where(finite, kept.lerp(value, 1 - self.decay), kept))
        return (self.range / self.seen.clamp(min=1e-8)).clamp(min=self.floor)
