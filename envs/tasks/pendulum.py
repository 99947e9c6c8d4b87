"""Pendulum swing-up with a motor too weak to lift it: it must be pumped up and then balanced.

Reward per step is (1 + cos angle) / 2, so hanging still earns 0 and standing 1; the episode is 150
steps. Mean return over 100 seeds: expert 125.4, uniformly random actions 6.4.
"""

from __future__ import annotations

import math

import numpy as np

from .base import Task, check_start, make_action_box, wrap_angles
from .canvas import Canvas

STEP_S = 0.08
SUBSTEPS = 4
GRAVITY = 15.0  # 3 g / 2 l of a uniform rod of one metre, in 1/s^2
TORQUE = 6.0  # 3 tau / m l^2 at full action: 40 % of what holding the rod level takes
FRICTION = 0.05
MAX_SPEED = 8.0


class Pendulum(Task):
    """The state is (angle from upright in (-pi, pi], angular velocity), the action (torque,)."""

    episode_steps = 150
    vector_size = 3
    steps_rows = True
    angles = (0,)

    def __init__(
        self, size: tuple[int, int] = (64, 64), obs: str = "pixels", start: str = "usual"
    ):
        """`start`: usual, hanging, or anywhere, at any angle and speed."""
        super().__init__(size, obs)
        self.action_space = make_action_box(1)
        self.starts_anywhere = check_start(start)
        self.angle, self.speed = math.pi, 0.0

    def start(self, generator: np.random.Generator) -> None:
        if self.starts_anywhere:
            self.angle = float(generator.uniform(-math.pi, math.pi))
            self.speed = float(generator.uniform(-MAX_SPEED, MAX_SPEED))
            return
        self.angle = math.pi + float(generator.uniform(-0.2, 0.2))
        self.speed = float(generator.uniform(-0.2, 0.2))

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        push = TORQUE * min(max(float(action[0]), -1.0), 1.0)
        step = STEP_S / SUBSTEPS
        for _ in range(SUBSTEPS):
            self.speed += step * (GRAVITY * math.sin(self.angle) + push - FRICTION * self.speed)
            self.speed = min(max(self.speed, -MAX_SPEED), MAX_SPEED)
            self.angle += step * self.speed
        return (1.0 + math.cos(self.angle)) / 2.0, False

    def advance_rows(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same equations for many states; np.sin may differ from math.sin in the last bit."""
        (angle, speed), push = states.T.copy(), TORQUE * np.clip(actions[:, 0], -1.0, 1.0)
        step = STEP_S / SUBSTEPS
        for _ in range(SUBSTEPS):
            speed += step * (GRAVITY * np.sin(angle) + push - FRICTION * speed)
            np.clip(speed, -MAX_SPEED, MAX_SPEED, out=speed)
            angle += step * speed
        rewards = (1.0 + np.cos(angle)) / 2.0
        return np.stack([wrap_angles(angle), speed], 1), rewards, np.zeros(len(states), bool)

    def state(self) -> np.ndarray:
        return np.array([math.remainder(self.angle, 2 * math.pi), self.speed])

    def set_state(self, state: np.ndarray) -> None:
        self.angle, self.speed = state.tolist()

    def vector(self) -> np.ndarray:
        return np.array(
            [math.cos(self.angle), math.sin(self.angle), self.speed / MAX_SPEED], np.float32
        )

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        board = Canvas(size, (38, 44, 82), (70, 82, 130))
        board.draw_ring(0.0, 0.0, 0.72, 0.02, (88, 100, 150))
        board.save_background()
        return board

    def draw(self, board: Canvas) -> None:
        x, y = 0.72 * math.sin(self.angle), 0.72 * math.cos(self.angle)
        board.draw_capsule(0.0, 0.0, x, y, 0.08, (240, 196, 80))
        board.draw_disc(0.0, 0.0, 0.13, (225, 230, 240))
        board.draw_disc(x, y, 0.2, (235, 84, 60))


def expert(env: Task) -> np.ndarray:
    """Pump energy until the top is in reach, then balance by linear feedback."""
    angle, speed = env.state()
    if abs(angle) < 0.9 and abs(6.6 * angle + 1.7 * speed) < 1.6:
        return np.array([np.clip(-(6.6 * angle + 1.7 * speed), -1, 1)], np.float32)
    # The energy is 0 for the rod at rest at the top; push along the motion while it is below 0.
    energy = speed**2 / 2 + GRAVITY * (math.cos(angle) - 1)
    direction = 1.0 if speed >= 0 else -1.0
    return np.array([np.clip(-4.0 * energy, -1, 1) * direction], np.float32)
