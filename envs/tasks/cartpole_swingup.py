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

from .base import Task
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

    def start(self, generator: np.random.Generator) -> None:
        noise = generator.normal(0.0, 0.1, 4).tolist()
        self.position, self.speed, self.spin = noise[0], noise[1], noise[3]
        self.angle = math.pi + noise[2]

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        share = min(max(float(action[0]), -1.0), 1.0)
        step = STEP_S / SUBSTEPS
        for _ in range(SUBSTEPS):
            pull, turn = accelerate(self.angle, self.spin, FORCE * share)
            # Positions move with the speeds after the step, which keeps a swinging pole's energy.
            self.speed += step * pull
            self.spin += step * turn
            self.position += step * self.speed
            self.angle += step * self.spin
            if abs(self.position) > MAX_POSITION:
                self.position, self.speed = math.copysign(MAX_POSITION, self.position), 0.0
        x = self.position + LENGTH * math.sin(self.angle)
        y = LENGTH * math.cos(self.angle) - LENGTH
        return math.exp(-(x * x + y * y) / LENGTH**2) - ACTION_COST * share**2, False

    def state(self) -> np.ndarray:
        angle = math.remainder(self.angle, 2 * math.pi)
        return np.array([self.position, self.speed, angle, self.spin])

    def vector(self) -> np.ndarray:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([self.position, self.speed, cos, sin, self.spin], np.float32)


def expert(env: Task) -> np.ndarray:
    """Pump energy with the cart near the centre until the top is in reach, then balance."""
    position, speed, angle, spin = env.state()
    if abs(angle) < 0.8 and abs(spin) < 3.0:
        return np.array([np.clip(np.dot(BALANCE, env.state()), -1, 1)], np.float32)
    # The energy is 0 for the pole at rest at the top, -2 at rest below.
    energy = spin**2 * HALF_LENGTH * 2 / 3 / GRAVITY + math.cos(angle) - 1
    pump = energy * math.copysign(1.0, spin * math.cos(angle))
    return np.array([np.clip(4.0 * pump - 0.1 * position - 0.4 * speed, -1, 1)], np.float32)
