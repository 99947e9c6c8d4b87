"""The cartpole of PCC's and PC3's public code: a pole that leans must be brought upright.

Cart, pole and force are those of `cartpole`; a step is 0.02 s. Speeds are bounded by 6 m/s and
2 pi rad/s, and nothing ends an episode of 50 steps. It starts at rest, with the pole up to 22.5
degrees from upright. Reward per step is 1 within 18 degrees. Mean return over 100 seeds:
expert 49.3, uniformly random actions 16.9.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .base import wrap_angles
from .canvas import Canvas
from .cartpole import FORCE, MAX_POSITION, accelerate
from .two_frames import WHITE, TwoFrames, draw_rod

MAX_SPEED, MAX_SPIN = 6.0, 2 * math.pi
WITHIN = math.pi / 10
LEANING = math.pi / 8  # largest angle of a usual start
FEEDBACK = (0.5, 0.7, 5.0, 1.3)  # of the four entries of the state


class PccCartpole(TwoFrames):
    """The state is (position, speed, angle from upright, angular velocity).

    The action is (force,).
    """

    episode_steps = 50
    vector_size = 4
    angles = (2,)

    def sample_usual_start(self, generator: np.random.Generator) -> np.ndarray:
        return np.array([0.0, 0.0, generator.uniform(-LEANING, LEANING), 0.0])

    def sample_anywhere(self, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(-1.0, 1.0, 4) * (MAX_POSITION, MAX_SPEED, WITHIN, MAX_SPIN)

    def differentiate(self, state: np.ndarray, action: float) -> np.ndarray:
        _, speed, angle, spin = state
        pull, turn = accelerate(angle, spin, FORCE * action)
        return np.array([speed, pull, spin, turn])

    def confine(self, state: np.ndarray) -> np.ndarray:
        position, speed, angle, spin = state
        speed, spin = np.clip(speed, -MAX_SPEED, MAX_SPEED), np.clip(spin, -MAX_SPIN, MAX_SPIN)
        return np.array([position, speed, wrap_angles(angle), spin])

    def is_upright(self) -> bool:
        return abs(self.values[2]) <= WITHIN

    def vector(self) -> np.ndarray:
        return self.values.astype(np.float32)

    def draw_state(self, board: Canvas, state: np.ndarray) -> None:
        x = 0.8 * state[0] / MAX_POSITION
        board.draw_box(x, -0.75, 0.2, 0.1, WHITE)
        draw_rod(board, x, -0.75, state[2], 1.3, 6 / 40)


def expert(env: Any) -> np.ndarray:
    """Linear feedback of the whole state."""
    return np.array([np.clip(np.dot(FEEDBACK, env.state()), -1, 1)], np.float32)
