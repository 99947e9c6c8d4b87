"""A task for tests: observations and rewards count the steps, so that a lost or reordered step
shows.
"""

from __future__ import annotations

import numpy as np

from .base import Task, make_action_box
from .canvas import Canvas


class Counter(Task):
    """The state is (step, tag, last action) and the reward the step's index, for 20 steps.

    The tag is random and drawn at reset. All pixels have the same colour: red is the step's low
    byte, green its high byte, blue the tag.
    """

    episode_steps = 20
    vector_size = 3

    def __init__(self, size: tuple[int, int] = (64, 64), obs: str = "pixels"):
        super().__init__(size, obs)
        self.action_space = make_action_box(1)
        self.count, self.tag, self.action = 0, 0, 0.0

    def start(self, generator: np.random.Generator) -> None:
        self.count, self.tag, self.action = 0, int(generator.integers(256)), 0.0

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        self.count, self.action = self.count + 1, float(action[0])
        return float(self.count), False

    def state(self) -> np.ndarray:
        return np.array([self.count, self.tag, self.action])

    def set_state(self, state: np.ndarray) -> None:
        self.count, self.tag, self.action = int(state[0]), int(state[1]), float(state[2])

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        return Canvas(size, (0, 0, 0), (0, 0, 0))

    def draw(self, board: Canvas) -> None:
        board.fill((self.count % 256, self.count // 256 % 256, self.tag))


def expert(env: Task) -> np.ndarray:
    """Do nothing, which is as good as anything."""
    return np.zeros(1, np.float32)
