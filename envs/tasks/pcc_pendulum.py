"""The pendulum of PCC's and PC3's public code: its motor lifts the rod, and it must stay upright.

A step is 0.02 s; gravity turns the rod by 58.9 sin(angle) rad/s^2, the motor by up to 78. Speeds
are bounded by 3 pi. Reward per step is 1 within 30 degrees of upright; the episode is 100 steps
and starts near hanging, at rest. Mean return over 100 seeds:
expert 83.0, uniformly random actions 0.0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .base import wrap_angles
from .canvas import Canvas
from .two_frames import TwoFrames, draw_rod

GRAVITY = 3 * 9.81 / 0.5  # 3 g / l, in 1/s^2
TORQUE = 120 * 0.65  # 3 tau / m l^2 at full action
MAX_SPEED = 3 * math.pi
WITHIN = math.pi / 6
HANGING = (2.83, 2.98)  # angles of a usual start


class PccPendulum(TwoFrames):
    """The state is (angle from upright in [-pi, pi], angular velocity), the action (torque,)."""

    episode_steps = 100
    vector_size = 2
    angles = (0,)

    def sample_usual_start(self, generator: np.random.Generator) -> np.ndarray:
        return np.array([generator.uniform(*HANGING), 0.0])

    def sample_anywhere(self, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(-1.0, 1.0, 2) * (math.pi, MAX_SPEED)

    def differentiate(self, state: np.ndarray, action: float) -> np.ndarray:
        return np.array([state[1], GRAVITY * math.sin(state[0]) + TORQUE * action])

    def confine(self, state: np.ndarray) -> np.ndarray:
        return np.array([wrap_angles(state[0]), np.clip(state[1], -MAX_SPEED, MAX_SPEED)])

    def is_upright(self) -> bool:
        return abs(self.values[0]) <= WITHIN

    def vector(self) -> np.ndarray:
        return np.array([self.values[0], self.values[1] / MAX_SPEED], np.float32)

    def draw_state(self, board: Canvas, state: np.ndarray) -> None:
        draw_rod(board, 0.0, 0.0, state[0], 22 / 24, 4 / 24)


def expert(env: Any) -> np.ndarray:
    """Proportional and derivative feedback of the angle (a PD controller)."""
    angle, speed = env.state()
    return np.array([np.clip(-(3.0 * angle + 0.3 * speed), -1, 1)], np.float32)
