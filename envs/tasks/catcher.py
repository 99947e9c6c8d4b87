"""Catch the fruit, dodge the bombs: left, stay or right under a rain of falling things.

A fruit caught is worth 1, a bomb caught ends the episode (terminated); the episode is at most 150
steps. Half of the bombs are aimed at where the catcher stands, so standing still is soon over.
Mean return over 100 seeds: expert 19.7, uniformly random actions 1.1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from gymnasium import spaces

from .base import Task
from .canvas import Canvas

COLUMNS = 11
ROWS = 12  # a thing appears in row 0 and is caught or lost in row ROWS
EVERY = 4  # steps from one thing to the next
REACH = 1  # columns to either side of the catcher's own that it covers
BOMB_SHARE = 0.4
SLOTS = ROWS // EVERY + 1
FRUIT, BOMB = 1, 2


class Catcher(Task):
    """State (column, steps since the last thing, then per slot kind, column, row); actions left,
    stay, right.
    """

    episode_steps = 150
    vector_size = 2 + 3 * SLOTS

    def __init__(self, size: tuple[int, int] = (64, 64), obs: str = "pixels"):
        super().__init__(size, obs)
        self.action_space = spaces.Discrete(3)
        self.column, self.clock = COLUMNS // 2, 0
        self.things: list[tuple[int, int, int]] = []  # kind, column, row; the lowest first

    def start(self, generator: np.random.Generator) -> None:
        self.column, self.clock = int(generator.integers(COLUMNS)), EVERY - 1
        self.things = []

    def advance(self, action: int) -> tuple[float, bool]:
        self.column = min(max(self.column + int(action) - 1, 0), COLUMNS - 1)
        self.things = [(kind, column, row + 1) for kind, column, row in self.things]
        reward, terminated = 0.0, False
        if self.things and self.things[0][2] == ROWS:
            kind, column, _ = self.things.pop(0)
            caught = abs(column - self.column) <= REACH
            reward, terminated = float(caught and kind == FRUIT), caught and kind == BOMB
        self.clock += 1
        if self.clock == EVERY:
            self.clock = 0
            self.things.append(self._drop())
        return reward, terminated

    def _drop(self) -> tuple[int, int, int]:
        """Return a new thing; the same three draws whatever it is keep the generator in step."""
        bomb, aimed = self.np_random.random(2) < (BOMB_SHARE, 0.5)
        column = int(self.np_random.integers(COLUMNS))
        if bomb:
            return BOMB, self.column if aimed else column, 0
        return FRUIT, column, 0

    def state(self) -> np.ndarray:
        slots = np.zeros((SLOTS, 3))
        for i, thing in enumerate(self.things):
            slots[i] = thing
        return np.concatenate([[self.column, self.clock], slots.ravel()])

    def vector(self) -> np.ndarray:
        scale = [COLUMNS - 1, EVERY] + [BOMB, COLUMNS - 1, ROWS] * SLOTS
        return (self.state() / scale).astype(np.float32)

    def canvas(self, size: tuple[int, int]) -> Canvas:
        board = Canvas(size, (120, 190, 235), (205, 232, 245))
        board.box(0.0, -0.98, max(size) * board.pixel, 0.1, (92, 150, 76))
        board.keep()
        return board

    def draw(self, board: Canvas) -> None:
        cell = 2.0 / COLUMNS
        for kind, column, row in self.things:
            x, y = (column - COLUMNS // 2) * cell, 0.92 - row * 1.66 / ROWS
            if kind == FRUIT:
                board.disc(x, y, 0.11, (245, 115, 25))
            else:
                board.disc(x, y, 0.13, (30, 24, 36))
                board.disc(x, y, 0.05, (235, 40, 60))
        x = (self.column - COLUMNS // 2) * cell
        board.box(x, -0.76, (REACH + 0.5) * cell, 0.1, (150, 60, 170))
        board.box(x, -0.72, (REACH + 0.3) * cell, 0.04, (215, 150, 230))


def expert(env: Task) -> int:
    """Take the first action of the best plan against everything in sight."""
    state = env.state()
    things = tuple((int(k), int(c), ROWS - int(r)) for k, c, r in state[2:].reshape(-1, 3) if k)
    column = int(state[0])
    values = {a: _value(min(max(column + a, 0), COLUMNS - 1), 1, things) for a in (0, -1, 1)}
    return max(values, key=lambda a: values[a]) + 1


@lru_cache(maxsize=100_000)
def _value(column: int, step: int, things: tuple[tuple[int, int, int], ...]) -> float:
    """Return the most that can be earned with the catcher in `column` at `step`; a thing lands at
    its third entry.
    """
    earned = 0.0
    if things and things[0][2] == step:
        kind, where, _ = things[0]
        things = things[1:]
        if abs(where - column) <= REACH:
            if kind == BOMB:
                return -1000.0
            earned = 1.0
    if not things:
        # Nothing known: the middle is nearest to what may come
        return earned - 0.01 * abs(column - COLUMNS // 2)
    return earned + max(
        _value(min(max(column + a, 0), COLUMNS - 1), step + 1, things) for a in (-1, 0, 1)
    )
