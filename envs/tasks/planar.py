"""A square robot in a plane with six round obstacles: the planar system of Embed to Control.

The plane is 40 units wide, the robot 3 and each obstacle 5; everything is white on black. A step
moves the robot by at most 3 along each axis. If it would end in an obstacle or outside the plane,
the robot stays. Reward per step is 1 within 2 units of the goal, which the picture does not show;
the episode is 40 steps. Mean return over 100 seeds:
expert 30.3, uniformly random actions 0.0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import EnvSettingsError
from .base import Task, check_start, make_action_box
from .canvas import Canvas

SIDE = 40.0
HALF_WIDTH = 1.5  # of the robot
RADIUS = 2.5  # of an obstacle
OBSTACLES = ((20.5, 5.5), (20.5, 12.5), (20.5, 27.5), (20.5, 35.5), (10.5, 20.5), (30.5, 20.5))
STEP = 3.0
CORNER = (3.0, 7.0)  # x and y of the start
WITHIN = 2.0
MIDDLE = (20.5, 20.0)  # a way through the obstacles, from any corner to any other
WHITE = (255, 255, 255)


class Planar(Task):
    """The state is (x, y) of the robot's centre; the vector is scaled to [-1, 1]. The action moves
    the robot in x and y.
    """

    episode_steps = 40
    vector_size = 2
    obstacles = OBSTACLES
    drawn_half_width = HALF_WIDTH

    def __init__(
        self,
        size: tuple[int, int] = (64, 64),
        obs: str = "pixels",
        start: str = "usual",
        goal: Any = (35.0, 35.0),
    ):
        """`start`: usual, in the corner at the origin, or anywhere. `goal`: its x and y."""
        if not is_point(goal):
            raise EnvSettingsError(
                f"env.kwargs.goal must be x and y between 0 and {SIDE:.0f}, not {goal!r}"
            )
        super().__init__(size, obs)
        self.action_space = make_action_box(2)
        self.starts_anywhere = check_start(start)
        self.goal = float(goal[0]), float(goal[1])
        self.x, self.y = CORNER

    def start(self, generator: np.random.Generator) -> None:
        low, high = (0.0, SIDE) if self.starts_anywhere else CORNER
        while True:
            self.x, self.y = generator.uniform(low, high, 2).tolist()
            if self.is_free(self.x, self.y):
                return

    def is_free(self, x: float, y: float) -> bool:
        return is_free(x, y)

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        x, y = (
            place + STEP * min(max(float(a), -1.0), 1.0)
            for place, a in zip((self.x, self.y), action, strict=True)
        )
        self.x, self.y = self.move(x, y)
        return float(self.measure_gap() <= WITHIN), False

    def move(self, x: float, y: float) -> tuple[float, float]:
        """Where a move to (x, y) ends."""
        return (x, y) if self.is_free(x, y) else (self.x, self.y)

    def measure_gap(self) -> float:
        """Return the distance to the goal."""
        return math.hypot(self.x - self.goal[0], self.y - self.goal[1])

    def state(self) -> np.ndarray:
        return np.array([self.x, self.y])

    def set_state(self, state: np.ndarray) -> None:
        self.x, self.y = state.tolist()

    def vector(self) -> np.ndarray:
        return (self.state() * (2 / SIDE) - 1).astype(np.float32)

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        return Canvas(size, (0, 0, 0), (0, 0, 0))

    def draw(self, board: Canvas) -> None:
        scale = 2 / SIDE
        for x, y in self.obstacles:
            board.draw_disc(x * scale - 1, y * scale - 1, RADIUS * scale, WHITE)
        half = self.drawn_half_width * scale
        board.draw_box(self.x * scale - 1, self.y * scale - 1, half, half, WHITE)


def is_free(x: float, y: float) -> bool:
    """Say whether a robot at (x, y) is inside the plane and touches no obstacle."""
    if not (HALF_WIDTH <= x <= SIDE - HALF_WIDTH and HALF_WIDTH <= y <= SIDE - HALF_WIDTH):
        return False
    # From each obstacle's centre to the nearest point of the robot
    return all(
        math.hypot(max(abs(x - a) - HALF_WIDTH, 0.0), max(abs(y - b) - HALF_WIDTH, 0.0)) > RADIUS
        for a, b in OBSTACLES
    )


def is_point(goal: Any) -> bool:
    return (
        isinstance(goal, list | tuple)
        and len(goal) == 2
        and all(isinstance(v, int | float) and 0 <= v <= SIDE for v in goal)
    )


def expert(env: Task) -> np.ndarray:
    """Go straight to the goal, by way of the middle if that lies in another quarter."""
    (x, y), goal = env.state().tolist(), env.goal  # type: ignore[attr-defined]
    same = all(
        (here > mid) == (there > mid)
        for here, there, mid in zip((x, y), goal, MIDDLE, strict=True)
    )
    passes = math.hypot(x - MIDDLE[0], y - MIDDLE[1]) < 0.1
    aim = goal if same or passes else MIDDLE
    move = np.array([aim[0] - x, aim[1] - y])
    return (move / max(STEP, np.abs(move).max())).astype(np.float32)
