"""A pole balanced on a cart by a continuous force: the benchmark of MBRL-Lib and its PETS example.

Equations, start, limits and rewards are those of MBRL-Lib's `CartPoleEnv` (Pineda et al. 2021),
after Barto, Sutton and Anderson (1983). Reward per step is 1, also in the step that fails; the
episode is 200 steps of 0.02 s. It ends where the cart is further than 2.4 m from the centre or the
pole more than 12 degrees from upright. Mean return over 100 seeds:
expert 200.0, uniformly random actions 27.1.
"""

from __future__ import annotations

import math

import numpy as np

from .base import Task, check_start, make_action_box
from .canvas import Canvas

GRAVITY = 9.8
CART_MASS = 1.0
POLE_MASS = 0.1
HALF_LENGTH = 0.5  # from the hinge to the pole's centre of mass
FORCE = 10.0  # newtons of a full action
STEP_S = 0.02
MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360
FAST = 2.0  # largest speed and angular velocity of a start anywhere
SCALE = 0.37  # picture units of one metre
BALANCE = (0.5, 0.7, 5.0, 1.3)  # feedback of the four entries of the state


def accelerate(
    angle: np.ndarray, spin: np.ndarray, force: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the accelerations of the cart and of the pole's angle."""
    total, moment = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
    sin, cos = np.sin(angle), np.cos(angle)
    push = (force + moment * spin**2 * sin) / total
    turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / total))
    return push - moment * turn * cos / total, turn


class Cartpole(Task):
    """The state is (position, speed, angle from upright, angular velocity).

    The action is (force,).
    """

    episode_steps = 200
    vector_size = 4
    steps_rows = True

    largest_angle = MAX_ANGLE  # of a start anywhere

    def __init__(
        self, size: tuple[int, int] = (64, 64), obs: str = "pixels", start: str = "usual"
    ):
        """`start`: usual, near the task's rest, or anywhere, where the episode does not end."""
        super().__init__(size, obs)
        self.action_space = make_action_box(1)
        self.starts_anywhere = check_start(start)
        self.values = np.zeros(4)

    def start(self, generator: np.random.Generator) -> None:
        if self.starts_anywhere:
            bounds = np.array([MAX_POSITION, FAST, self.largest_angle, FAST])
            self.values = generator.uniform(-bounds, bounds)
        else:
            self.values = self.sample_usual_start(generator)

    def sample_usual_start(self, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(-0.05, 0.05, 4)

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        rows, rewards, ends = self.advance_rows(self.values[None], np.asarray(action)[None])
        self.values = rows[0]
        return float(rewards[0]), bool(ends[0])

    def advance_rows(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, speed, angle, spin = states.T
        force = FORCE * np.clip(actions[:, 0].astype(np.float64), -1.0, 1.0)
        pull, turn = accelerate(angle, spin, force)
        # Explicit Euler, as in the benchmark: positions move with the speeds before the step.
        position, angle = position + STEP_S * speed, angle + STEP_S * spin
        speed, spin = speed + STEP_S * pull, spin + STEP_S * turn
        ends = (np.abs(position) > MAX_POSITION) | (np.abs(angle) > MAX_ANGLE)
        return np.stack([position, speed, angle, spin], 1), np.ones(len(states)), ends

    def state(self) -> np.ndarray:
        return self.values.copy()

    def set_state(self, state: np.ndarray) -> None:
        self.values = state.astype(np.float64)

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        board = Canvas(size, (226, 232, 240), (190, 202, 218))
        rail = SCALE * MAX_POSITION
        board.draw_capsule(-rail, 0.0, rail, 0.0, 0.02, (96, 108, 130))
        for x in (-rail, rail):
            board.draw_box(x, 0.0, 0.02, 0.1, (96, 108, 130))
        board.save_background()
        return board

    def draw(self, board: Canvas) -> None:
        position, _, angle, _ = self.values.tolist()
        x, length = SCALE * position, SCALE * 2 * HALF_LENGTH
        tip = x + length * math.sin(angle), length * math.cos(angle)
        board.draw_box(x, 0.0, 0.13, 0.075, (48, 84, 150))
        board.draw_capsule(x, 0.0, *tip, 0.045, (214, 92, 44))
        board.draw_disc(x, 0.0, 0.05, (250, 216, 120))


def expert(env: Task) -> np.ndarray:
    """Balance by linear feedback."""
    return np.array([np.clip(np.dot(BALANCE, env.state()), -1, 1)], np.float32)
