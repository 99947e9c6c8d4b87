"""The catcher task: catch falling fruit and dodge bombs by moving left, right or not at all.

A caught fruit is worth 1; a caught bomb terminates the episode, which has at most 150 steps. Half
of the bombs are aimed at the catcher's column, so standing still soon ends the episode. Mean
return over 100 seeds: expert 19.7, uniformly random actions 1.1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from gymnasium import spaces

from .base import Task
from .canvas import Canvas

COLUMNS = 11
ROWS = 12  # an item appears in row 0 and is caught or lost in row ROWS
STEPS_BETWEEN = 4  # steps from one item to the next
REACH = 1  # the catcher also catches in this many columns to either side
BOMB_SHARE = 0.4
SLOTS = ROWS // STEPS_BETWEEN + 1
FRUIT, BOMB = 1, 2


class Catcher(Task):
    """Actions are left, stay, right.

    The state is (column, steps since the last item, then kind, column and row of each item slot).
    """

    episode_steps = 150
    vector_size = 2 + 3 * SLOTS

    def __init__(self, size: tuple[int, int] = (64, 64), obs: str = "pixels"):
        super().__init__(size, obs)
        self.action_space = spaces.Discrete(3)
        self.column, self.clock = COLUMNS // 2, 0
        self.items: list[tuple[int, int, int]] = []  # kind, column, row; the lowest first

    def start(self, generator: np.random.Generator) -> None:
        self.column, self.clock = int(generator.integers(COLUMNS)), STEPS_BETWEEN - 1
        self.items = []

    def advance(self, action: int) -> tuple[float, bool]:
        self.column = min(max(self.column + int(action) - 1, 0), COLUMNS - 1)
        self.items = [(kind, column, row + 1) for kind, column, row in self.items]
        reward, terminated = 0.0, False
        if self.items and self.items[0][2] == ROWS:
            kind, column, _ = self.items.pop(0)
            caught = abs(column - self.column) <= REACH
            reward, terminated = float(caught and kind == FRUIT), caught and kind == BOMB
        self.clock += 1
        if self.clock == STEPS_BETWEEN:
            self.clock = 0
            self.items.append(self._make_item())
        return reward, terminated

    def _make_item(self) -> tuple[int, int, int]:
        """Make a random item, always with three random numbers."""
        bomb, aimed = self.np_random.random(2) < (BOMB_SHARE, 0.5)
        column = int(self.np_random.integers(COLUMNS))
        if bomb:
            return BOMB, self.column if aimed else column, 0
        return FRUIT, column, 0

    def state(self) -> np.ndarray:
        slots = np.zeros((SLOTS, 3))
        for i, item in enumerate(self.items):
            slots[i] = item
        return np.concatenate([[self.column, self.clock], slots.ravel()])

    def set_state(self, state: np.ndarray) -> None:
        self.column, self.clock, *slots = np.rint(state).astype(int).tolist()
        items = zip(slots[::3], slots[1::3], slots[2::3], strict=True)
        self.items = [item for item in items if item[0]]

    def vector(self) -> np.ndarray:
        scale = [COLUMNS - 1, STEPS_BETWEEN] + [BOMB, COLUMNS - 1, ROWS] * SLOTS
        return (self.state() / scale).astype(np.float32)

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        board = Canvas(size, (120, 190, 235), (205, 232, 245))
        board.draw_box(0.0, -0.98, max(size) * board.pixel, 0.1, (92, 150, 76))
        board.save_background()
        return board

    def draw(self, board: Canvas) -> None:
        cell = 2.0 / COLUMNS
        for kind, column, row in self.items:
            x, y = (column - COLUMNS // 2) * cell, 0.92 - row * 1.66 / ROWS
            if kind == FRUIT:
                board.draw_disc(x, y, 0.11, (245, 115, 25))
            else:
                board.draw_disc(x, y, 0.13, (30, 24, 36))
                board.draw_disc(x, y, 0.05, (235, 40, 60))
        x = (self.column - COLUMNS // 2) * cell
        board.draw_box(x, -0.76, (REACH + 0.5) * cell, 0.1, (150, 60, 170))
        board.draw_box(x, -0.72, (REACH + 0.3) * cell, 0.04, (215, 150, 230))


def expert(env: Task) -> int:
    """Return the first action of the best plan for the visible items."""
    state = env.state()
    items = tuple((int(k), int(c), ROWS - int(r)) for k, c, r in state[2:].reshape(-1, 3) if k)
    column = int(state[0])
    values = {
        a: _compute_value(min(max(column + a, 0), COLUMNS - 1), 1, items) for a in (0, -1, 1)
    }
    return max(values, key=lambda a: values[a]) + 1


@lru_cache(maxsize=100_000)
def _compute_value(column: int, step: int, items: tuple[tuple[int, int, int], ...]) -> float:
    """Return the best return from `column` at `step` on; items end with the step they land."""
    earned = 0.0
    if items and items[0][2] == step:
        kind, where, _ = items[0]
        items = items[1:]
        if abs(where - column) <= REACH:
            if kind == BOMB:
                return -1000.0
            earned = 1.0
    if not items:
        # With no item in sight the middle column is the best place to wait.
        return earned - 0.01 * abs(column - COLUMNS // 2)
    return earned + max(
        _compute_value(min(max(column + a, 0), COLUMNS - 1), step + 1, items) for a in (-1, 0, 1)
    )
