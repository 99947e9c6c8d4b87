"""An episode whose rows are known, with the pictures and the simulator's state in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from worldmodel.rollout.montage import join_row
from worldmodel.spaces import Columns, find_vectors


@dataclass
class RecordedEpisode:
    """An episode; the vectors among its columns are the simulator's state.

    The seed, if known, lets the simulator play it again.
    """

    columns: Columns
    seed: int | None = None

    @cached_property
    def pictures(self) -> np.ndarray | None:
        """The observed pictures side by side (T,H,W,3) uint8."""
        return join_row(self.columns)

    @cached_property
    def state(self) -> np.ndarray | None:
        """The simulator's state (T,n): the vector of that name, or all vectors."""
        vectors = find_vectors(self.columns)
        return np.concatenate(list(vectors.values()), 1) if vectors else None

    def __len__(self) -> int:
        return len(self.columns["reward"])
