"""The planar system of PCC's and PC3's public code: `planar` with obstacles that block less.

Obstacles are drawn with a radius of 2.5, but a move fails only where the robot, a square 3 wide,
would cover the centre of one. The walls hold the robot at 1.5. The robot is drawn 2 wide. The
episode is 40 steps, from the corner at the origin; reward per step is 1 within 2 units of the
goal. Mean return over 100 seeds:
expert 30.3, uniformly random actions 0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .planar import HALF_WIDTH, SIDE, STEP, Planar

OBSTACLES = ((20.5, 5.5), (20.5, 13.5), (20.5, 27.5), (20.5, 35.5), (10.5, 20.5), (30.5, 20.5))
CORNERS = ((37.0, 37.0), (37.0, 3.0), (3.0, 37.0))  # the published goals


class PccPlanar(Planar):
    obstacles = OBSTACLES
    drawn_half_width = 1.0

    def __init__(
        self,
        size: tuple[int, int] = (64, 64),
        obs: str = "pixels",
        start: str = "usual",
        goal: Any = CORNERS[0],
    ):
        """`start`: usual, in the corner at the origin, or anywhere. `goal`: its x and y."""
        super().__init__(size, obs, start, goal)

    def is_free(self, x: float, y: float) -> bool:
        return is_free(x, y)

    def move(self, x: float, y: float) -> tuple[float, float]:
        x, y = (min(max(v, HALF_WIDTH), SIDE - HALF_WIDTH) for v in (x, y))
        return (x, y) if is_free(x, y) else (self.x, self.y)


def is_free(x: float, y: float) -> bool:
    """Say whether a robot at (x, y) is inside the plane and covers the centre of no obstacle."""
    inside = all(HALF_WIDTH <= v <= SIDE - HALF_WIDTH for v in (x, y))
    return inside and all(max(abs(x - a), abs(y - b)) > HALF_WIDTH for a, b in OBSTACLES)


def expert(env: Any) -> np.ndarray:
    """Go straight to the goal."""
    return np.clip((np.array(env.goal) - env.state()) / STEP, -1, 1).astype(np.float32)
