"""Names shared by every part, and the shape legend.

B batch, T time, N candidates, H horizon, A action, E embedding, D deterministic, S stochastic
groups, K classes, F feature; image axes are spelt out.

One row of experience is the observation, the action that led to it and the reward on arrival:

    image (B,T,H,W,3) uint8   vector (B,T,n)   prev_action (B,T,A)
    reward, is_first, is_last, is_terminal (B,T)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]  # one row of experience of one environment
Batch = dict[str, Tensor]
# Leaves (...,X); only the dynamics that made it knows what they are
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


def map_state(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Apply a function to every leaf: an index, a shape, a device."""
    return {k: change(v) for k, v in state.items()}


def join_states(states: Sequence[State], join: Callable[[list[Tensor]], Tensor]) -> State:
    """Stack or concatenate states leaf by leaf."""
    return {k: join([state[k] for state in states]) for k in states[0]}


def count_states(state: State) -> int:
    """The size of the first axis."""
    return len(next(iter(state.values())))


def add_prefix(state: State, prefix: str) -> State:
    """Name leaves apart from other tensors that they travel with."""
    return {prefix + k: v for k, v in state.items()}


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> State:
    """The leaves that `add_prefix` named."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
