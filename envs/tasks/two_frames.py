"""The base class of tasks whose picture shows two moments, as in PCC and PC3: red is the step
before, green and blue are now. What rests is white.
"""

from __future__ import annotations

import math

import numpy as np

from .base import Task, check_start, make_action_box
from .canvas import Canvas

WHITE = (255, 255, 255)


class TwoFrames(Task):
    """A state (N,) moves by `differentiate`; a step is one of the Runge-Kutta method.

    An episode that starts anywhere begins with a random action, so that its first picture shows
    two moments too.
    """

    step_s = 0.02

    def __init__(
        self, size: tuple[int, int] = (64, 64), obs: str = "pixels", start: str = "usual"
    ):
        """`start`: usual, or anywhere, uniformly."""
        super().__init__(size, obs)
        self.action_space = make_action_box(1)
        self.starts_anywhere = check_start(start)
        self.values = self.values_before = np.zeros(self.vector_size)

    def sample_usual_start(self, generator: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def sample_anywhere(self, generator: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def differentiate(self, state: np.ndarray, action: float) -> np.ndarray:
        """The time derivative of a state under an action in [-1, 1]."""
        raise NotImplementedError

    def confine(self, state: np.ndarray) -> np.ndarray:
        """A state with its angle wrapped and its speeds bounded."""
        raise NotImplementedError

    def is_upright(self) -> bool:
        raise NotImplementedError

    def draw_state(self, board: Canvas, state: np.ndarray) -> None:
        """Draw a state in white."""
        raise NotImplementedError

    def start(self, generator: np.random.Generator) -> None:
        if not self.starts_anywhere:
            self.set_state(self.sample_usual_start(generator))
            return
        self.set_state(self.sample_anywhere(generator))
        self.advance(generator.uniform(-1.0, 1.0, 1))

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        push = min(max(float(action[0]), -1.0), 1.0)
        self.values_before = self.values
        self.values = self.confine(self.integrate(self.values, push))
        return float(self.is_upright()), False

    def integrate(self, state: np.ndarray, action: float) -> np.ndarray:
        """The state after a step, by the classical Runge-Kutta method."""
        half = self.step_s / 2
        one = self.differentiate(state, action)
        two = self.differentiate(state + half * one, action)
        three = self.differentiate(state + half * two, action)
        four = self.differentiate(state + self.step_s * three, action)
        return state + self.step_s / 6 * (one + 2 * two + 2 * three + four)

    def state(self) -> np.ndarray:
        return self.values.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Both moments of the picture show this state."""
        self.values = self.values_before = state.astype(np.float64)

    def disturb(self, noise: np.ndarray) -> None:
        """Add to the state, in which the picture shows it."""
        self.values = self.confine(self.values + noise)

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        return Canvas(size, (0, 0, 0), (0, 0, 0))

    def draw(self, board: Canvas) -> None:
        self.draw_state(board, self.values)

    def render(self) -> np.ndarray:
        board = self.board
        board.clear()
        self.draw_state(board, self.values_before)
        before = board.to_pixels()[..., 0]
        covered = None if board.cover is None else board.cover.copy()
        board.clear()
        self.draw(board)
        if board.cover is not None and covered is not None:
            np.maximum(board.cover, covered, out=board.cover)
        now = board.to_pixels()[..., 0]
        return np.stack([before, now, now], -1)


def draw_rod(board: Canvas, x: float, y: float, angle: float, length: float, width: float) -> None:
    """Draw a rod from (x, y), its angle from upright."""
    tip = x + length * math.sin(angle), y + length * math.cos(angle)
    board.draw_capsule(x, y, *tip, width / 2, WHITE)
