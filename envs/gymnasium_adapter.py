"""Gymnasium environments and a user's own classes, adapted to this package's spaces."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error, spaces

from .errors import EnvSettingsError
from .wrappers import (
    ActionRepeat,
    CheckReturn,
    NormalizeAction,
    RefuseAutoreset,
    Resize,
    TimeLimit,
    check_picture,
    pick_sizes,
    resize,
)

# Packages that register their ids, under a namespace, only when they are imported.
_NAMESPACES = {"ALE": ("ale_py", "pip install ale-py")}


def check_id(name: str) -> None:
    """Raise EnvSettingsError for an id that Gymnasium does not know.

    Ids under a namespace are not checked: only their package knows them.
    """
    if "/" in name:
        return
    try:
        gymnasium.spec(name)
    except error.UnregisteredEnv as problem:
        raise _make_unknown_error(name) from problem
    except error.Error as problem:
        raise EnvSettingsError(f"gym:{name}: {_join_lines(problem)}") from problem


def names_code(name: str) -> bool:
    """Say whether making the id imports a module of another package than `check_id` knows."""
    if ":" in name:
        return True
    spec = gymnasium.registry.get(name)
    if spec is None:  # Gymnasium completes an id without its version, also that of another package
        return name.partition("/")[0] not in _NAMESPACES
    entry = spec.entry_point or spec.vector_entry_point or ""
    module = entry.partition(":")[0] if isinstance(entry, str) else entry.__module__
    packages = ("gymnasium", *(package for package, _ in _NAMESPACES.values()))
    return module.partition(".")[0] not in packages


def _make_unknown_error(name: str) -> EnvSettingsError:
    near = difflib.get_close_matches(name, gymnasium.registry.keys(), 1, 0.5)
    hint = f", did you mean 'gym:{near[0]}'?" if near else ""
    return EnvSettingsError(f"Gymnasium knows no environment {name!r}{hint}")


def make_registered(name: str, size: tuple[int, int]) -> gymnasium.Env:
    """Make the Gymnasium environment `name`, or raise EnvSettingsError saying what is missing."""
    module, command = _NAMESPACES.get(name.partition("/")[0], (None, ""))
    try:
        if module:
            gymnasium.register_envs(importlib.import_module(module))
        return gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
    except (error.DependencyNotInstalled, ImportError) as problem:
        raise EnvSettingsError(
            f"gym:{name} needs a missing package: {_fix_pip(_join_lines(problem, command))}"
        ) from problem
    except error.UnregisteredEnv as problem:
        raise _make_unknown_error(name) from problem
    except error.Error as problem:
        raise EnvSettingsError(f"gym:{name} cannot be made: {_join_lines(problem)}") from problem
    except TypeError as problem:
        if "gymnasium.Env" not in str(problem):  # not Gymnasium's own check of what was made
            raise
        raise EnvSettingsError(f"gym:{name} cannot be made: {_join_lines(problem)}") from problem


def _fix_pip(text: str) -> str:
    """Replace `pip` by the pip of the Python that runs this program."""
    return text.replace("pip install", f"{sys.executable} -m pip install")


def make_custom(name: str, size: tuple[int, int]) -> gymnasium.Env:
    """Make a user's environment `package.module:Class`, passing `size` if it takes it."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as problem:
        raise EnvSettingsError(
            f"{name}: cannot import {module_name}: {_join_lines(problem)}"
        ) from problem
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [n for n, v in vars(target).items() if not n.startswith("_") and callable(v)]
            near = difflib.get_close_matches(part, public, 1, 0.5)
            hint = f", did you mean {module_name}:{near[0]}?" if near else ""
            raise EnvSettingsError(f"{name}: {module_name} has no {part!r}{hint}")
        target = getattr(target, part)
    if not callable(target):
        raise EnvSettingsError(
            f"{name}: {attribute} must be a gymnasium.Env class or a function that returns one"
        )
    if inspect.isclass(target) and not issubclass(target, gymnasium.Env):
        raise EnvSettingsError(f"{name}: {attribute} is a class, but not a gymnasium.Env")
    offers = {"size": size, "render_mode": "rgb_array"}
    try:
        taken = set(inspect.signature(target).parameters)
    except ValueError:  # callables written in C may have no signature
        taken = set()
    env = target(**{key: value for key, value in offers.items() if key in taken})
    if not isinstance(env, gymnasium.Env):
        raise EnvSettingsError(
            f"{name}: {attribute} gives {type(env).__name__}, which is not a gymnasium.Env"
        )
    return env


def adapt(
    env: gymnasium.Env,
    name: str,
    *,
    size: tuple[int, int],
    repeat: int,
    time_limit: int | None,
    obs: str,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> gymnasium.Env:
    """Wrap `env` with normalised actions, a time limit, an action repeat and observations."""
    try:
        env = adapt_action(RefuseAutoreset(CheckReturn(env)), name)
        if time_limit is not None:
            env = TimeLimit(env, time_limit)
        return adapt_obs(ActionRepeat(env, repeat), name, size, obs, sizes)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error says more
            env.close()
        raise


class _IndexAction(gymnasium.ActionWrapper):
    """Present Discrete, MultiDiscrete and MultiBinary actions as flat indices from 0."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        inner = env.action_space
        if isinstance(inner, spaces.Discrete):
            self.action_space = spaces.Discrete(int(inner.n))
            self.first: Any = int(inner.start)
        elif isinstance(inner, spaces.MultiDiscrete):
            self.action_space = spaces.MultiDiscrete(inner.nvec.ravel())
            self.first = inner.start.ravel()
        else:
            self.action_space = spaces.MultiDiscrete(np.full(int(np.prod(inner.shape or (1,))), 2))
            self.first = 0
        self.inner = inner

    def action(self, action: Any) -> Any:
        if isinstance(self.inner, spaces.Discrete):
            return self.inner.dtype.type(int(action) + self.first)
        return (np.asarray(action) + self.first).reshape(self.inner.shape).astype(self.inner.dtype)


def read_space(env: gymnasium.Env, name: str, attribute: str) -> spaces.Space:
    """Return a space of the environment; EnvSettingsError if it has none."""
    space = getattr(env, attribute, None)
    if not isinstance(space, spaces.Space):
        raise EnvSettingsError(f"{name}: {attribute} must be a gymnasium space, not {space!r:.80}")
    return space


def adapt_action(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """Bring the action space to Box(-1, 1, (A,)), Discrete or MultiDiscrete."""
    space = read_space(env, name, "action_space")
    if isinstance(space, spaces.Box):
        return NormalizeAction(env, name)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _IndexAction(env)
    raise EnvSettingsError(
        f"{name}: actions must be Box, Discrete, MultiDiscrete or MultiBinary, not {space}"
    )


class _Observe(gymnasium.ObservationWrapper):
    """Turn observations into a picture, a vector or a dict of both."""

    def __init__(self, env: gymnasium.Env, size: tuple[int, int], obs: str):
        super().__init__(env)
        self.size, self.obs = size, obs
        self.source = env.observation_space
        if obs != "pixels":
            num = spaces.flatdim(self.source)
            vector = spaces.Box(-np.inf, np.inf, (num,), np.float32)
        image = spaces.Box(0, 255, (*size, 3), np.uint8)
        if obs == "both":
            self.observation_space = spaces.Dict({"image": image, "vector": vector})
        else:
            self.observation_space = image if obs == "pixels" else vector

    def observation(self, observation: Any) -> Any:
        if self.obs == "pixels":
            return self._picture()
        vector = np.asarray(spaces.flatten(self.source, observation), np.float32)
        return vector if self.obs == "state" else {"image": self._picture(), "vector": vector}

    def _picture(self) -> np.ndarray:
        return resize(np.asarray(self.env.render(), np.uint8), self.size)


def adapt_obs(
    env: gymnasium.Env,
    name: str,
    size: tuple[int, int],
    obs: str,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> gymnasium.Env:
    """Adapt observations to this package's form.

    A picture, or a Dict of pictures and vectors, is kept. Anything else is flattened into a
    vector, and the picture is the result of render().
    """
    space = read_space(env, name, "observation_space")
    if _holds_pictures(space):
        return _FromDict(env, name, size, obs, sizes)
    pick_sizes(name, [], size, sizes)  # a single picture has env.size
    if _is_image(space):
        if obs != "pixels":
            raise EnvSettingsError(
                f"{name} observes an image and has no vector: use obs=pixels, not {obs}"
            )
        return Resize(env, size)
    if obs != "pixels" and not space.is_np_flattenable:
        raise EnvSettingsError(f"{name}: observations cannot be flattened into a vector: {space}")
    if obs != "state":
        _probe_render(env, name)
    return _Observe(env, size, obs)


class _FromDict(gymnasium.ObservationWrapper):
    """Keep the pictures and vectors of a Dict by name, or only one of the two kinds."""

    def __init__(
        self,
        env: gymnasium.Env,
        name: str,
        size: tuple[int, int],
        obs: str,
        sizes: Mapping[str, tuple[int, int]] | None,
    ):
        super().__init__(env)
        source = env.observation_space
        assert isinstance(source, spaces.Dict)
        pictures = {k: v for k, v in source.items() if _is_image(v)}
        if obs != "pixels" and len(pictures) == len(source):
            raise EnvSettingsError(
                f"{name} observes pictures and no vector: use obs=pixels, not {obs}"
            )
        self.sizes = pick_sizes(name, list(pictures), size, sizes)
        # A single grey picture has always become RGB.
        self.channels = {k: _count_channels(v) for k, v in pictures.items()}
        if len(pictures) == 1 and self.channels.get("image") == 1:
            self.channels["image"] = 3
        self.source = source
        parts: dict[str, spaces.Space] = {}
        for key, part in source.items():
            if key in pictures and obs != "state":
                shape = (*self.sizes[key], self.channels[key])
                parts[key] = spaces.Box(0, 255, shape, np.uint8)
            elif key not in pictures and obs != "pixels":
                parts[key] = spaces.Box(-np.inf, np.inf, (spaces.flatdim(part),), np.float32)
        self.parts = parts
        kind = {"pixels": "image", "state": "vector"}.get(obs)
        self.only = kind if kind is not None and list(parts) == [kind] else ""
        self.observation_space = parts[self.only] if self.only else spaces.Dict(parts)

    def observation(self, observation: Any) -> Any:
        found = {key: self._convert(key, observation[key]) for key in self.parts}
        return found[self.only] if self.only else found

    def _convert(self, key: str, value: Any) -> np.ndarray:
        """Convert one entry to a picture of its size, or to a flat vector."""
        space = self.source[key]
        if key in self.sizes:
            return resize(check_picture(value, space), self.sizes[key], self.channels[key])
        return np.asarray(spaces.flatten(space, value), np.float32)


def _count_channels(space: spaces.Space) -> int:
    assert space.shape is not None
    return space.shape[2] if len(space.shape) == 3 else 1


def _is_image(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 2, 3, 4))


def _holds_pictures(space: spaces.Space) -> bool:
    """Say whether the space is a Dict of pictures, at least one, and of parts to flatten."""
    if not isinstance(space, spaces.Dict):
        return False
    others = [part for part in space.values() if not _is_image(part)]
    return len(others) < len(space) and all(part.is_np_flattenable for part in others)


def _probe_render(env: gymnasium.Env, name: str) -> None:
    """Draw one picture now, so that a missing package is reported before training starts."""
    try:
        env.reset(seed=0)
    except error.DependencyNotInstalled as problem:
        raise EnvSettingsError(
            f"{name} cannot start without a package: {_join_lines(problem)}"
        ) from problem
    try:
        picture = env.render()
    except error.DependencyNotInstalled as problem:
        raise EnvSettingsError(
            f"{name} cannot draw pictures without a package: {_join_lines(problem)}"
        ) from problem
    except Exception as problem:
        raise EnvSettingsError(
            f"{name} cannot draw pictures ({_join_lines(problem)}); use obs=state"
        ) from problem
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
        raise EnvSettingsError(
            f"{name} has no image observation and render() gives no (H, W, 3) picture: "
            "use obs=state or support render_mode='rgb_array'"
        )
    if not np.issubdtype(picture.dtype, np.integer):
        raise EnvSettingsError(
            f"{name}: render() gives pictures of dtype {picture.dtype}; they must be uint8, "
            "0 to 255, or use obs=state"
        )


def _join_lines(problem: BaseException, command: str = "") -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    return f"{text} ({command})" if command else text
