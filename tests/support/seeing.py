"""An environment that shows pictures of 1 and of 4 channels and two vectors, each by its name."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces


class Seeing(gymnasium.Env):
    """A bright column moves to where the action says; all observations tell where it is."""

    observation_space = spaces.Dict(
        {
            "wrist": spaces.Box(0, 255, (20, 24, 4), np.uint8),
            "front": spaces.Box(0, 255, (30, 40, 1), np.uint8),
            "joints": spaces.Box(-1.0, 1.0, (3,), np.float64),
            "goal": spaces.Box(-np.inf, np.inf, (2, 1), np.float32),
        }
    )
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.where = float(self.np_random.uniform(-1, 1))
        return self.observed(), {}

    def step(self, action):
        self.where = float(np.clip(self.where + 0.2 * action[0], -1, 1))
        return self.observed(), 1 - abs(self.where), False, False, {}

    def observed(self):
        front = np.zeros((30, 40, 1), np.uint8)
        front[:, round((self.where + 1) * 19)] = 255
        wrist = np.zeros((20, 24, 4), np.uint8)
        wrist[..., 3] = round((self.where + 1) * 127)
        joints = np.array([self.where, -self.where, 0.5])
        return {
            "wrist": wrist,
            "front": front,
            "joints": joints,
            "goal": np.array([[self.where], [2.0]], np.float32),
        }
