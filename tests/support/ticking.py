"""An environment that counts its steps, and those that Gymnasium's three autoreset modes make
of it.
"""

from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Ticker(gymnasium.Env):
    """Observes (step, seed's number, last action); the reward is the step. Episodes end after
    five steps, terminated after even numbers and truncated after odd ones.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    length = 5
    tag = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tag = self.tag + 1 if seed is None else seed % 1000
        self.count, self.action = 0, 0.0
        return self.observe(), {}

    def step(self, action):
        assert self.count < self.length, "a step after the end"
        self.count, self.action = self.count + 1, float(action[0])
        over = self.count == self.length
        even = self.tag % 2 == 0
        return self.observe(), float(self.count), over and even, over and not even, {}

    def observe(self):
        return np.array([self.count, self.tag, self.action], np.float32)


class SelfResetting(gymnasium.Wrapper):
    """Resets in the very step that ends an episode; the last observation is in the info."""

    name = "final_obs"

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info[self.name] = obs
            obs, _ = self.env.reset()
        return obs, reward, terminated, truncated, info


class Courteous(gymnasium.Wrapper):
    """Repeats the last observation in the info, and does not reset."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "final_obs": obs.copy()}


def next_step():
    return gymnasium.wrappers.Autoreset(Ticker())


def same_step():
    return SelfResetting(Ticker())


def courteous():
    return Courteous(Ticker())


def vector(mode):
    return SyncVectorEnv([Ticker, Ticker], autoreset_mode=mode)


vector_next_step = partial(vector, AutoresetMode.NEXT_STEP)
vector_same_step = partial(vector, AutoresetMode.SAME_STEP)
vector_disabled = partial(vector, AutoresetMode.DISABLED)
