"""What the calls into the C half share: packed weights, and rollouts in rows.

Weights are packed once inside `fixed_weights()`, where no weight changes, otherwise each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Latents by the keys of their distributions
NORMAL, CATEGORICAL, NOISELESS = ("mean", "std"), ("logits",), ("mean",)
WIDE = 16  # outputs that a matrix packed in fp32 keeps together

# packed weights by their owner's id and their kind, while weights are fixed
_kept: dict[tuple[int, str], tuple[object, Any]] | None = None


@contextlib.contextmanager
def fixed_weights() -> Iterator[None]:
    """Pack weights only once inside; none may change there."""
    global _kept
    before, _kept = _kept, _kept if _kept is not None else {}
    try:
        yield
    finally:
        _kept = before


def are_fixed() -> bool:
    """Whether no weight changes now."""
    return _kept is not None


def keep_while_fixed(owner: object, make: Callable[[], Any], kind: str = "") -> Any:
    """Return `make()`, kept for its owner while weights are fixed."""
    if _kept is None:
        return make()
    key = id(owner), kind
    if key not in _kept:
        _kept[key] = owner, make()
    return _kept[key][1]


def pack_in_blocks(weight: Tensor, bias: Tensor, widths: list[int], pair: int) -> list[Tensor]:
    """A matrix (M,K) in blocks of so many outputs, filled up with zeros, and its bias (M,).

    A block has for each input, or in bf16 for each pair of inputs, the weights of every output.
    """
    missing = sum(widths) - len(weight)
    full = F.pad(weight.detach(), (0, -weight.shape[1] % pair, 0, missing))
    blocks = [b.unflatten(1, (-1, pair)).transpose(0, 1).flatten() for b in full.split(widths)]
    return [torch.cat(blocks), F.pad(bias.detach(), (0, missing))]


class RowRollout:
    """A rollout whose states are rows (steps+1,N,[input | deter | stoch]).

    The last two parts are the features.
    """

    rows: Tensor
    done: int
    hidden: int  # numbers of the input

    @property
    def features(self) -> Tensor:
        return self.rows[self.done, :, self.hidden :]

    def features_before(self) -> Tensor:
        return self.rows[: self.done, :, self.hidden :]

    def features_after(self) -> Tensor:
        return self.rows[1 : self.done + 1, :, self.hidden :]
