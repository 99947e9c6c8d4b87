"""A grid over the room in which uncertainty and coverage are measured."""

from __future__ import annotations

import numpy as np

from worldmodel.model.dynamics import Simulator

CELLS, EDGE = 18, 0.85  # of the grid over the room, and where its walls are
REPEATS = 16  # steps of the simulator from one state


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


def probe_room(simulator: Simulator, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a point (N,2) can be stood on, and the true std of a step that stands still."""
    states = np.repeat(points.astype(np.float64), REPEATS, 0)
    after, _, _ = simulator.step(states, np.zeros((len(states), 2), np.float32), seed=0)
    moved = (after - states).reshape(len(points), REPEATS, 2)
    width = 2 * EDGE / CELLS
    return np.abs(np.median(moved, 1)).max(1) < width / 2, moved.std(1).mean(1)
