"""Atari games after Machado et al. (2018), and as Atari 100k plays them.

A frame is a frame of the game where `frameskip` is 1, as both presets have it. The picture is then
the maximum of the last two frames, because games draw some objects in every second frame only.
Losing a life ends nothing.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from ..errors import EnvSettingsError


def make(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Make a game; `noops` is the largest number of idle frames before an episode."""
    noops = kwargs.pop("noops", 0)
    if type(noops) is not int or not 0 <= noops <= 1000:
        raise EnvSettingsError(f"env.kwargs.noops must be 0 to 1000, not {noops!r}")
    env = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True, **kwargs)
    return Atari(env, noops, pool=kwargs.get("frameskip") == 1)


class Atari(gymnasium.Wrapper):
    """Idle for a random number of frames first; with `pool` show the maximum of two frames."""

    def __init__(self, env: gymnasium.Env, noops: int, pool: bool):
        super().__init__(env)
        self.noops, self.pool = noops, pool
        self.generator = np.random.default_rng()
        self.before: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        obs, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.generator.integers(self.noops + 1)):
            obs, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                obs, info = self.env.reset()
        self.before = obs
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        before, self.before = self.before, obs
        shown = np.maximum(obs, before) if self.pool else obs
        return shown, reward, terminated, truncated, info
