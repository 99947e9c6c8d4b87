"""Replay samplers choose an update's sequences: `sampler(index, batch, generator) -> starts`.

One file each; registry.py names them, build.py imports them, the buffer calls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.replay.segments import StartIndex


class Sampler:
    """Chooses starts by index, generator and what it keeps of the rows held.

    A sampler that keeps something for each row is told which chunks come and go. What it keeps
    has to survive a stop: `state_dict` has arrays of plain numbers, saved with each checkpoint.
    """

    needs_losses = False  # whether `record_losses` is to be called after each update

    def __init__(self, settings: Any = None):
        self.settings = settings

    def __call__(
        self, index: StartIndex, batch: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Draw the starts (B,) of a batch, with replacement; the index has one at least."""
        raise NotImplementedError

    def clear(self, chunk_rows: int) -> None:
        """Begin with an empty replay, whose chunks have so many rows."""

    def add_chunk(self, stream: int, number: int) -> None:
        """A chunk is held from now on; it may still be empty."""

    def drop_chunk(self, stream: int, number: int) -> None:
        """A chunk is no longer held."""

    def record_losses(self, streams: np.ndarray, rows: np.ndarray, losses: np.ndarray) -> None:
        """Take in the losses (B,T) of rows that were learnt from; `rows` (B,) are the first."""

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what was kept of the chunks that are held; the state may have others too."""


def draw_by_weight(weights: np.ndarray, batch: int, generator: np.random.Generator) -> np.ndarray:
    """Draw indices (B,) in proportion to weights (N,), with replacement."""
    ends = np.cumsum(weights, dtype=np.float64)
    drawn = np.searchsorted(ends, generator.random(batch) * ends[-1], side="right")
    return np.minimum(drawn, len(weights) - 1)  # rounding may reach the very end
