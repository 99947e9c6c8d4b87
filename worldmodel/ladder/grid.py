"""A grid over the room in which uncertainty and coverage are measured."""

from __future__ import annotations

import numpy as np

CELLS, EDGE = 18, 0.85  # of the grid over the room, and where its walls are


def make_grid() -> np.ndarray:
    """The centres (CELLS,CELLS,2) of the grid; rows are y from high to low."""
    centres = (np.arange(CELLS) + 0.5) / CELLS * 2 * EDGE - EDGE
    x, y = np.meshgrid(centres, centres[::-1])
    return np.stack([x, y], -1).astype(np.float32)


def count_visits(vectors: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How many of the vectors (M,2) lie in the grid's cell around each point (N,2)."""
    half = EDGE / CELLS
    inside = np.abs(vectors[:, None] - points[None]) <= half + 1e-6
    return inside.all(-1).sum(0)
