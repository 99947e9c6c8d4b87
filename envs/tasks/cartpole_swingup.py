"""The pole of `cartpole` hangs down and must be swung up and balanced, as in PETS.

With the pole's length L of one metre and its tip's position relative to the centre of the rail,
reward per step is exp(-|tip - (0, L)|^2 / L^2) - 0.01 action^2: that of PETS (Chua et al. 2018),
where L is 0.6. Cart, pole and force are those of `cartpole`. A control step is 0.04 s, as there,
in four substeps that keep the energy; the episode is 200 steps and never ends early. The cart
stops at the ends of the rail, 2.4 m from the centre. Mean return over 100 seeds:
expert 157.3, uniformly random actions 2.4.
"""

from __future__ import annotations

import math

import numpy as np

from .base import Task, wrap_angles
from .cartpole import (
    BALANCE,
    FORCE,
    GRAVITY,
    HALF_LENGTH,
    MAX_POSITION,
    Cartpole,
    accelerate,
)

STEP_S = 0.04
SUBSTEPS = 4
LENGTH = 2 * HALF_LENGTH
ACTION_COST = 0.01


class CartpoleSwingup(Cartpole):
    """The state is that of Cartpole; the vector has cosine and sine of the angle."""

    vector_size = 5
    angles = (2,)

    largest_angle = math.pi

    def sample_usual_start(self, generator: np.random.Generator) -> np.ndarray:
        return np.array([0.0, 0.0, math.pi, 0.0]) + generator.normal(0.0, 0.1, 4)

    def advance_rows(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, speed, angle, spin = states.T.copy()
        share = np.clip(actions[:, 0].astype(np.float64), -1.0, 1.0)
        step = STEP_S / SUBSTEPS
        for _ in range(SUBSTEPS):
            pull, turn = accelerate(angle, spin, FORCE * share)
            # Positions move with the speeds after the step, which keeps a swinging pole's energy.
            speed += step * pull
            spin += step * turn
            position += step * speed
            angle += step * spin
            speed[np.abs(position) > MAX_POSITION] = 0.0
            np.clip(position, -MAX_POSITION, MAX_POSITION, out=position)
        x, y = position + LENGTH * np.sin(angle), LENGTH * np.cos(angle) - LENGTH
        rewards = np.exp(-(x * x + y * y) / LENGTH**2) - ACTION_COST * share**2
        after = np.stack([position, speed, wrap_angles(angle), spin], 1)
        return after, rewards, np.zeros(len(states), bool)

    def vector(self) -> np.ndarray:
        position, speed, angle, spin = self.values
        return np.array([position, speed, math.cos(angle), math.sin(angle), spin], np.float32)


def expert(env: Task) -> np.ndarray:
    """Pump energy with the cart near the centre until the top is in reach, then balance."""
    position, speed, angle, spin = env.state()
    if abs(angle) < 0.8 and abs(spin) < 3.0:
        return np.array([np.clip(np.dot(BALANCE, env.state()), -1, 1)], np.float32)
    # The energy is 0 for the pole at rest at the top, -2 at rest below.
    energy = spin**2 * HALF_LENGTH * 2 / 3 / GRAVITY + math.cos(angle) - 1
    pump = energy * math.copysign(1.0, spin * math.cos(angle))
    return np.array([np.clip(4.0 * pump - 0.1 * position - 0.4 * speed, -1, 1)], np.float32)
