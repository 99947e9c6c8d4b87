"""Crafter (Hafner 2022), whose package has the interface of the old gym."""

from __future__ import annotations

import importlib
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ..errors import EnvSettingsError

OPTIONS = ("area", "view", "size", "length")
ACHIEVEMENT = "achievement/"  # before the names in a step's info


def make(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Make CrafterReward-v1 or CrafterNoReward-v1."""
    unknown = [key for key in kwargs if key not in OPTIONS]
    if unknown:
        raise EnvSettingsError(f"env.kwargs.{unknown[0]}: Crafter takes {', '.join(OPTIONS)} only")
    if name not in ("CrafterReward-v1", "CrafterNoReward-v1"):
        raise EnvSettingsError(
            f"gym:{name}: Crafter has gym:CrafterReward-v1 and gym:CrafterNoReward-v1"
        )
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    return Crafter(reward=name == "CrafterReward-v1", **plain)


class InsertionOrder(dict):
    """A set that is walked in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


class Crafter(gymnasium.Env):
    """Crafter as a gymnasium.Env whose episodes are a function of seed and actions.

    The package walks sets of objects in the order of their addresses, which differs from process
    to process; here they are walked in the order of insertion.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, **kwargs: Any):
        self.game = importlib.import_module("crafter").Env(seed=0, **kwargs)
        world, start = self.game._world, self.game._world.reset

        def reset_world(seed: int | None = None) -> None:
            start(seed)
            world._chunks = defaultdict(InsertionOrder)

        world.reset = reset_world
        self.observation_space = spaces.Box(0, 255, self.game.observation_space.shape, np.uint8)
        self.action_space = spaces.Discrete(len(self.game.action_names))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.game._seed, self.game._episode = seed, 0
        return self.game.reset(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, reward, done, info = self.game.step(int(action))
        dead = info["discount"] == 0
        reached = {ACHIEVEMENT + key: count for key, count in info["achievements"].items()}
        return obs, float(reward), dead, bool(done) and not dead, reached

    def render(self) -> Any:
        return self.game.render()
