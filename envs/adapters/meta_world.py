"""Meta-World, whose tasks are drawn from generators that reset does not seed."""

from __future__ import annotations

from typing import Any

import gymnasium

from ..errors import EnvSettingsError


def make(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Make one task, by default always with the same fifty goals."""
    if "env_name" not in kwargs:
        raise EnvSettingsError(f"gym:{name} needs a task: --env.kwargs.env_name reach-v3")
    options = {"seed": 0, "render_mode": "rgb_array", "disable_env_checker": True, **kwargs}
    return TaskSeeding(gymnasium.make(name, **options))


class TaskSeeding(gymnasium.Wrapper):
    """Choose the goal of an episode by the seed that reset is given."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]
        return self.env.reset(options=options)
