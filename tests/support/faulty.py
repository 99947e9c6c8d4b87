"""Environments that fail on demand, in a module of their own so that worker processes can import
them quickly.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

FAULTS = {
    0.1: "raise",
    0.2: "nan",
    0.3: "shape",
    0.4: "dtype",
    0.5: "reward",
    0.6: "exit",
    0.7: "die",
    0.8: "hang",
}
DO = {name: np.full(1, key, np.float32) for key, name in FAULTS.items()}


class Faulty(gymnasium.Env):
    """Counts its steps, and fails in the way that the action asks for."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, once: str = ""):
        self.once = once  # a file: where it does not exist yet, reset makes it and fails
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.once and not os.path.exists(self.once):
            Path(self.once).touch()
            raise OSError("the simulator did not start")
        self.count = 0
        return self._obs(), {
            "main": hasattr(sys.modules["__main__"], "__file__"),
            "torch": "torch" in sys.modules,
        }

    def _obs(self):
        return np.array([self.count, self.np_random_seed, 0], np.float32)

    def step(self, action):
        assert np.isfinite(action).all(), "a bad action came through"
        self.count += 1
        obs, reward = self._obs(), float(self.count)
        match FAULTS.get(round(float(action[0]), 3)):
            case "raise":
                raise RuntimeError("boom")
            case "nan":
                obs[1] = np.nan
            case "shape":
                obs = obs[:2]
            case "dtype":
                obs = obs.astype(np.float64)
            case "reward":
                reward = float("inf")
            case "exit":
                os._exit(7)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1000)
        return obs, reward, False, False, {}


class Moody(gymnasium.Env):
    """A picture that counts; where the folder WM_MOODS holds a file '5-raise' it does that at step
    5, once in all.
    """

    observation_space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros((32, 32, 3), np.uint8), {}

    def step(self, action):
        assert np.isfinite(action).all(), "a bad action came through"
        self.count += 1
        picture, reward = np.full((32, 32, 3), self.count, np.uint8), float(self.count)
        match self._mood():
            case "raise":
                raise RuntimeError("boom")
            case "nan":
                reward = float("nan")
            case "shape":
                picture = picture[:5]
            case "dtype":
                picture = picture.astype(np.float64)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "huge":
                reward = 3e38
        return picture, reward, False, self.count >= 12, {}

    def _mood(self):
        for path in sorted(Path(os.environ["WM_MOODS"]).glob(f"{self.count}-*")):
            if "torch" in sys.modules and not path.name.endswith("huge"):
                continue  # a training's own process, not a worker's
            try:
                path.unlink()  # another worker may have been faster
            except FileNotFoundError:
                continue
            return path.name.partition("-")[2]
        return "even"


class Noting(Faulty):
    """Leaves a file for every step it has done."""

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def step(self, action):
        result = super().step(action)
        Path(self.folder, str(self.count)).touch()
        return result


class Broken(Faulty):
    """Cannot be built."""

    def __init__(self):
        raise RuntimeError("no licence")


class NoStart(Faulty):
    """Cannot be made."""

    def __init__(self):
        raise AttributeError("boom\nof two lines")


class Talking(Moody):
    """Prints at every step."""

    def step(self, action):
        print("a step", flush=True)
        print("a warning", file=sys.stderr)
        return super().step(action)

    def _mood(self):
        return "even"
