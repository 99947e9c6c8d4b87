"""Names shared by every part, and the shape legend.

B batch, T time, N candidates, H horizon, A action, E embedding, D deterministic, S stochastic
groups, K classes, F feature; image axes are spelt out.

One row of experience is the observation, the action that led to it and the reward on arrival:

    image (B,T,H,W,3) uint8   vector (B,T,n)   prev_action (B,T,A)
    reward, is_first, is_last, is_terminal (B,T)

Observations have names: `image` and `vector` where there is one of a kind, else any others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.errors import UsageError

Row = dict[str, Any]  # one row of experience of one environment
Columns = dict[str, np.ndarray]  # an episode's rows, key by key (T,...)
Batch = dict[str, Tensor]
# Leaves (...,X); only the dynamics that made it knows what they are
State = dict[str, Tensor]
Losses = dict[str, Tensor]  # every entry (B,T)
Metrics = dict[str, Tensor]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # of an observation
ROW = ("prev_action", "reward", "is_first", "is_last", "is_terminal")  # a row's other entries
CHANNELS = range(1, 5)  # of a picture


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

    def decode_actions(self, action: np.ndarray) -> np.ndarray:
        """One-hot actions (B,A) as the environment's own: (B,) indices, or (B,G) of G groups."""
        ends = np.cumsum(self.groups)[:-1]
        picks = np.stack([part.argmax(-1) for part in np.split(action, ends, -1)], -1)
        return picks[..., 0] if self.scalar else picks

    def encode_actions(self, actions: np.ndarray) -> Tensor:
        """The environment's own actions (B,...) as vectors (B,A); UsageError if they are none."""
        if not self.discrete:
            if actions.shape[1:] != (self.size,) or not np.isfinite(actions).all():
                raise UsageError(f"an action is {self.size} finite numbers, not {actions!r}")
            return torch.from_numpy(actions.astype(np.float32).clip(-1, 1))
        picks, sizes = actions.reshape(len(actions), -1), np.array(self.groups)
        whole = np.issubdtype(picks.dtype, np.integer) and picks.shape[1:] == sizes.shape
        if not whole or (picks < 0).any() or (picks >= sizes).any():
            raise UsageError(f"{actions!r} is no choice among {self.groups}")
        return self.one_hot(list(torch.from_numpy(picks.astype(np.int64)).unbind(1)))

    def one_hot(self, picks: list[Tensor]) -> Tensor:
        """Chosen index of each group (...,) to a float vector (...,A)."""
        parts = [
            torch.nn.functional.one_hot(p, n) for p, n in zip(picks, self.groups, strict=True)
        ]
        return torch.cat(parts, -1).float()


class ObservationSpace(Mapping[str, tuple[int, ...]]):
    """What the agent sees: shapes by name, (H,W,C) of pictures (uint8) and (n,) of vectors.

    Pictures come first, both kinds in the order of their names, however they were given.
    """

    def __init__(self, shapes: Mapping[str, int | Sequence[int]]):
        given = {k: (v,) if isinstance(v, int) else tuple(map(int, v)) for k, v in shapes.items()}
        for name, shape in given.items():
            _check_spec(name, shape)
        self._shapes = {k: given[k] for k in sorted(given, key=lambda k: (len(given[k]) == 1, k))}

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        return f"ObservationSpace({self._shapes})"

    @property
    def pictures(self) -> dict[str, tuple[int, int, int]]:
        """Height, width and channels of every picture."""
        return {k: (v[0], v[1], v[2]) for k, v in self._shapes.items() if len(v) == 3}

    @property
    def vectors(self) -> dict[str, int]:
        """The size of every vector."""
        return {k: v[0] for k, v in self._shapes.items() if len(v) == 1}

    def describe(self) -> dict[str, list[int] | int]:
        """JSON values that make it again: three sizes of each picture, one of each vector."""
        return {k: list(v) if len(v) == 3 else v[0] for k, v in self._shapes.items()}


def _check_spec(name: str, shape: tuple[int, ...]) -> None:
    """Raise UsageError for an observation that has no place in a row or in a model."""
    taken = name in ROW or name.startswith(("start_", "before_")) or hasattr(nn.ModuleDict, name)
    if taken or not NAME.fullmatch(name):
        raise UsageError(
            f"an observation cannot be called {name!r}: leave it out by env.vector_keys or "
            f"env.image_keys, or take another name, of letters, digits, _ and -"
        )
    picture = len(shape) == 3 and shape[2] in CHANNELS
    if not (picture or len(shape) == 1) or min(shape) < 1:
        raise UsageError(
            f"observation {name!r} has shape {shape}: pictures are (height, width, 1 to "
            f"{CHANNELS[-1]} channels), vectors (n,)"
        )


def find_pictures(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The pictures of a row, or of rows (T,...), by name: what else they hold is no uint8."""
    return {k: row[k] for k in sorted(row) if getattr(row[k], "dtype", None) == np.uint8}


def find_vectors(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The vectors (T,n) of an episode's rows by name: the one called `vector`, else all."""
    if "vector" in columns:
        return {"vector": columns["vector"]}
    names = [k for k in sorted(columns) if k not in ROW and not k.startswith("before_")]
    return {k: columns[k] for k in names if columns[k].dtype == np.float32}


def map_state(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Apply a function to every leaf: an index, a shape, a device."""
    return {k: change(v) for k, v in state.items()}


def select_states(state: State, index: np.ndarray) -> State:
    """States (T,...) at indices of any shape."""
    return {k: v[torch.as_tensor(index, device=v.device)] for k, v in state.items()}


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
