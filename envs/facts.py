"""What rules of the configuration need to know of a task, read from the environment itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium import spaces

from .dmc.suite import DMC
from .wrappers import TimeLimit

# Attributes by which environments name a time limit of their own
LIMITS = ("max_episode_steps", "_max_episode_steps", "max_steps", "max_path_length")


@dataclass(frozen=True)
class TaskFacts:
    """Facts of a task; None is unknown."""

    control_step: float | None = None  # seconds of one control step
    episode_frames: int | None = None  # control steps after which an episode ends
    discrete: bool | None = None  # whether actions are choices


def read_facts(make: Callable[[], gymnasium.Env]) -> TaskFacts:
    """Make an environment, read its facts and close it."""
    env = make()
    try:
        return TaskFacts(
            find_control_step(env),
            find_episode_frames(env),
            not isinstance(env.action_space, spaces.Box),
        )
    finally:
        env.close()


def find_control_step(env: gymnasium.Env) -> float | None:
    """Seconds of a control step: of the simulator's step and a picture's share of a second, where
    an environment names them, the longer, since a control step may be several of the simulator's.
    """
    inner = env.unwrapped
    if isinstance(inner, DMC):
        return inner.control_step
    step = _read_number(getattr(inner, "dt", None))
    rate = _read_number((getattr(inner, "metadata", None) or {}).get("render_fps"))
    return max((s for s in (step, rate and 1 / rate) if s), default=None)


def find_episode_frames(env: gymnasium.Env) -> int | None:
    """The time limit of an episode in control steps."""
    limits: list[float | None] = [getattr(env.spec, "max_episode_steps", None)]
    while isinstance(env, gymnasium.Wrapper):
        limits += [env.limit] if isinstance(env, TimeLimit) else _read_limits(env)
        env = env.env
    limits += _read_limits(env)
    limits += [env.step_limit] if isinstance(env, DMC) else []
    return min((int(limit) for limit in limits if limit), default=None)


def _read_limits(env: gymnasium.Env) -> list[float | None]:
    return [_read_number(getattr(env, name, None)) for name in LIMITS]


def _read_number(value: Any) -> float | None:
    """A positive number, or None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < float("inf") else None
