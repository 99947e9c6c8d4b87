"""Wrappers: action repeat, time limits, resizing, action normalisation and boundary checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence

from .errors import EnvDataError, EnvSettingsError

LAST_OBS = ("final_obs", "final_observation", "terminal_observation")  # of an autoreset, in info


class RefuseAutoreset(gymnasium.Wrapper):
    """Raise EnvDataError where an episode's last step observes the next episode's start."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        for last in (info[key] for key in LAST_OBS if key in info):
            if (terminated or truncated) and not data_equivalence(last, obs):
                raise EnvDataError(
                    f"{type(self.unwrapped).__name__} resets itself in the step that ends an "
                    "episode: return the last observation, and start the next episode in reset()"
                )
        return obs, reward, terminated, truncated, info


class FrameCounter:
    """An environment of this package that knows how many control steps its last step took."""

    frames = 1


def count_frames(env: gymnasium.Env) -> int:
    """Count the control steps of the last step.

    Only classes of this package are asked. A user's environment, which lies inside of them, may
    call anything `frames`.
    """
    while not isinstance(env, FrameCounter):
        if not isinstance(env, gymnasium.Wrapper):
            return 1
        env = env.env
    return env.frames


class ActionRepeat(gymnasium.Wrapper, FrameCounter):
    """Apply each action `repeat` times or until the episode ends, and sum the rewards."""

    def __init__(self, env: gymnasium.Env, repeat: int):
        super().__init__(env)
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        total, self.frames = 0.0, 0
        while self.frames < self.repeat:
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            self.frames += 1
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class TimeLimit(gymnasium.Wrapper):
    """Truncate an episode after `limit` steps of the wrapped environment."""

    def __init__(self, env: gymnasium.Env, limit: int):
        super().__init__(env)
        self.limit = limit
        self.elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.elapsed = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.elapsed += 1
        return obs, reward, terminated, truncated or self.elapsed >= self.limit, info


class FixedStarts(gymnasium.Wrapper):
    """Reset with seeds 0 to `starts` - 1 alone: the rest of the seed that is asked for."""

    def __init__(self, env: gymnasium.Env, starts: int):
        super().__init__(env)
        self.starts = starts

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        rest = None if seed is None else seed % self.starts
        return self.env.reset(seed=rest, options=options)


class Patience(gymnasium.Wrapper):
    """Truncate an episode after `steps` steps in a row with little reward.

    Little is at most `floor` per control step.
    """

    def __init__(self, env: gymnasium.Env, steps: int, floor: float):
        super().__init__(env)
        self.steps, self.floor = steps, floor
        self.poor = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.poor = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        poor = float(reward) <= self.floor * count_frames(self.env)
        self.poor = self.poor + 1 if poor else 0
        return obs, reward, terminated, truncated or self.poor >= self.steps, info


def resize(image: np.ndarray, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Resize an (H, W) or (H, W, C) uint8 image to (*size, channels), averaging if it shrinks.

    A single channel is repeated.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        image = np.repeat(image, channels, axis=2)
    if image.shape[:2] == tuple(size):
        return np.ascontiguousarray(image)
    from PIL import Image

    def scale(part: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(part))
        return np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))

    if channels == 3:
        return scale(image)
    # Resize channels one by one: PIL would take a fourth channel for transparency.
    return np.stack([scale(image[:, :, i]) for i in range(channels)], axis=2)


def place_side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Join pictures (H, W, 3) side by side, with black below the lower ones."""
    if len(pictures) == 1:
        return pictures[0]
    height = max(len(picture) for picture in pictures)
    paddings = [((0, height - len(picture)), (0, 0), (0, 0)) for picture in pictures]
    return np.concatenate(
        [np.pad(p, padding) for p, padding in zip(pictures, paddings, strict=True)], 1
    )


def pick_sizes(
    name: str,
    pictures: Sequence[str],
    size: tuple[int, int],
    sizes: Mapping[str, tuple[int, int]] | None,
) -> dict[str, tuple[int, int]]:
    """Return the size of every picture: its own in `sizes`, else `size`."""
    unknown = [picture for picture in sizes or {} if picture not in pictures]
    if unknown:
        raise EnvSettingsError(
            f"sizes: {name} has no picture {unknown[0]!r}, only {', '.join(pictures) or 'vectors'}"
        )
    return {picture: (sizes or {}).get(picture, size) for picture in pictures}


class NormalizeAction(gymnasium.ActionWrapper):
    """Present a bounded Box of any shape as Box(-1, 1, (A,), float32)."""

    def __init__(self, env: gymnasium.Env, name: str = "the environment"):
        super().__init__(env)
        inner = env.action_space
        assert isinstance(inner, spaces.Box)
        if not (np.isfinite(inner.low).all() and np.isfinite(inner.high).all()):
            raise EnvSettingsError(
                f"{name}: actions need finite bounds to be scaled to [-1, 1], they are {inner}"
            )
        self.inner = inner
        self.low = inner.low.ravel().astype(np.float64)
        self.high = inner.high.ravel().astype(np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (self.low.size,), np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        share = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
        scaled = np.clip(self.low + share * (self.high - self.low), self.low, self.high)
        if np.issubdtype(self.inner.dtype, np.integer):
            scaled = np.rint(scaled)
        return scaled.reshape(self.inner.shape).astype(self.inner.dtype)


def check_reward(reward: Any) -> float:
    """Return a reward as a float; EnvDataError unless it is one finite number."""
    value = np.asarray(reward)
    if (
        value.size != 1
        or not np.issubdtype(value.dtype, np.number)
        and value.dtype != bool
        or np.iscomplexobj(value)
        or not np.isfinite(value).all()
    ):
        raise EnvDataError(f"reward must be one finite number, not {reward!r:.80}")
    return float(value.item())


def check_flag(name: str, flag: Any) -> bool:
    """Return terminated or truncated as a bool; EnvDataError unless it is a flag or a number."""
    value = np.asarray(flag)
    if value.size != 1 or value.dtype != bool and not np.issubdtype(value.dtype, np.integer):
        raise EnvDataError(f"{name} must be True or False, not {flag!r:.80}")
    return bool(value.item())


class CheckReturn(gymnasium.Wrapper):
    """Raise EnvDataError unless reset and step return what Gymnasium asks for.

    It lies directly around a user's environment, so that other wrappers may rely on it.
    """

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        found = self.env.reset(seed=seed, options=options)
        obs, info = _unpack(found, "reset", ("observation", "info"))
        return obs, _check_info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        names = ("observation", "reward", "terminated", "truncated", "info")
        obs, reward, *flags, info = _unpack(self.env.step(action), "step", names)
        terminated, truncated = map(check_flag, names[2:4], flags)
        return obs, check_reward(reward), terminated, truncated, _check_info(info)


def _unpack(found: Any, method: str, names: tuple[str, ...]) -> tuple:
    if not isinstance(found, tuple) or len(found) != len(names):
        count = f" of {len(found)}" if isinstance(found, tuple) else ""
        raise EnvDataError(
            f"{method} must return ({', '.join(names)}), not a {type(found).__name__}{count}"
        )
    return found


def _check_info(info: Any) -> dict:
    if not isinstance(info, dict):
        raise EnvDataError(f"info must be a dict, not {type(info).__name__}")
    return info


class Check(gymnasium.Wrapper):
    """Raise EnvDataError for an action, observation or reward outside its space or not finite.

    Actions are converted to the space's dtype and continuous ones clipped to its bounds. A bad
    action never reaches the inner environment.
    """

    def __init__(self, env: gymnasium.Env, name: str | None = None):
        super().__init__(env)
        self.name = name or type(env.unwrapped).__name__
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.count = 0
        obs, info = self.env.reset(seed=seed, options=options)
        self._check_obs(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.count += 1
        obs, reward, terminated, truncated, info = self.env.step(self._check_action(action))
        self._check_obs(obs)
        try:
            value = check_reward(reward)
        except EnvDataError as problem:
            raise self._make_error(str(problem)) from None
        return obs, value, bool(terminated), bool(truncated), info

    def _make_error(self, what: str) -> EnvDataError:
        return EnvDataError(f"{self.name}, step {self.count}: {what}")

    def _check_action(self, action: Any) -> Any:
        space, value = self.action_space, np.asarray(action)
        if not np.issubdtype(value.dtype, np.number):
            raise self._make_error(f"action {action!r} is not a number")
        if value.shape != space.shape:
            raise self._make_error(f"action has shape {value.shape}, expected {space.shape}")
        if not np.isfinite(value).all():
            raise self._make_error(f"action is not finite: {value}")
        if isinstance(space, spaces.Box):
            return np.clip(value, space.low, space.high).astype(space.dtype)
        if not np.issubdtype(value.dtype, np.integer) or not space.contains(
            value.astype(space.dtype)
        ):
            raise self._make_error(f"action {value} is not in {space}")
        return int(value) if isinstance(space, spaces.Discrete) else value.astype(space.dtype)

    def _check_obs(self, obs: Any) -> None:
        space = self.observation_space
        if not isinstance(space, spaces.Dict):
            self._check_array("observation", obs, space)
            return
        if not isinstance(obs, dict) or obs.keys() != space.keys():
            raise self._make_error(f"observation must be a dict of {', '.join(space.keys())}")
        for key, part in space.items():
            self._check_array(f"observation {key!r}", obs[key], part)

    def _check_array(self, label: str, value: Any, space: spaces.Space) -> None:
        if not isinstance(value, np.ndarray):
            raise self._make_error(f"{label} is {type(value).__name__}, expected an array")
        if value.shape != space.shape:
            raise self._make_error(f"{label} has shape {value.shape}, expected {space.shape}")
        if value.dtype != space.dtype:
            raise self._make_error(f"{label} has dtype {value.dtype}, expected {space.dtype}")
        if value.dtype != np.uint8 and not np.isfinite(value).all():
            raise self._make_error(f"{label} is not finite")
