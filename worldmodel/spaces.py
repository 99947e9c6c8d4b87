"""Names shared by every part, and the shape legend.

B batch, T time, N candidates, H horizon, A action, E embedding, D deterministic, S stochastic
groups, K classes, F feature; image axes are spelt out.

One row of experience is the observation, the action that led to it and the reward on arrival:

    image (B,T,H,W,3) uint8   vector (B,T,n)   prev_action (B,T,A)
    reward, is_first, is_last, is_terminal (B,T)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]  # one row of experience of one environment
Batch = dict[str, Tensor]
# Deter (...,D), stoch (...,S[,K]) and the parameters of the distribution it came from
State = dict[str, Tensor]
Losses = dict[str, Tensor]  # every entry (B,T)
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class ActionSpace:
    """What the agent may do: a box of `size` numbers in [-1, 1], or one-hot `groups` laid end to
    end.
    """

    size: int
    groups: tuple[int, ...] = ()
    scalar: bool = False  # one group that the environment wants as a plain number

    @property
    def discrete(self) -> bool:
        return bool(self.groups)

    def random(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Uniform actions (B,A)."""
        device = generator.device if generator is not None else None
        if not self.discrete:
            return torch.rand(batch, self.size, generator=generator, device=device) * 2 - 1
        picks = [
            torch.randint(n, (batch,), generator=generator, device=device) for n in self.groups
        ]
        return self.one_hot(picks)

    def one_hot(self, picks: list[Tensor]) -> Tensor:
        """Chosen index of each group (...,) to a float vector (...,A)."""
        parts = [
            torch.nn.functional.one_hot(p, n) for p, n in zip(picks, self.groups, strict=True)
        ]
        return torch.cat(parts, -1).float()


@dataclass(frozen=True)
class ObservationSpace:
    """Shapes of what the agent sees; None where it doesn't."""

    image: tuple[int, int, int] | None = None
    vector: int | None = None
