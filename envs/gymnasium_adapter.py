"""Gymnasium environments and a user's own classes, adapted to this package's spaces."""

from __future__ import annotations

import contextlib
import copy
import ctypes.util
import difflib
import functools
import importlib
import inspect
import logging
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import gymnasium
import numpy as np
from gymnasium import error, spaces

from .errors import EnvSettingsError, MissingPackageError
from .observations import ObservationSelector, choose_observations
from .packages import PACKAGES, Package, check_installed, find_package, is_importable
from .wrappers import ActionRepeat, CheckReturn, NormalizeAction, RefuseAutoreset, TimeLimit

_log = logging.getLogger(__name__)

# Arguments of gymnasium.make that this project gives itself.
_RESERVED = {
    "render_mode": "pictures are always drawn as rgb_array",
    "disable_env_checker": "this project has checks of its own",
    "id": "env.task has it",
    "max_episode_steps": "env.time_limit has it",
}


def check_id(name: str) -> None:
    """Raise EnvSettingsError for an id that neither Gymnasium nor a known package has.

    The ids of another package are not checked further: only the package itself knows them.
    """
    module, colon, plain = name.rpartition(":")
    if colon:
        if not plain or not all(part.isidentifier() for part in module.split(".")):
            raise EnvSettingsError(f"gym:{name} must be gym:ID or gym:package.module:ID")
        if not is_importable(module.partition(".")[0]):
            raise EnvSettingsError(f"gym:{name}: no module {module.partition('.')[0]!r}")
        return
    if name in gymnasium.registry:
        return
    package = find_package(name)
    if package:
        return check_installed(package, name)
    namespace, slash, _ = name.partition("/")
    if slash:
        if namespace.isidentifier() and is_importable(namespace):
            return
        raise EnvSettingsError(
            f"Gymnasium knows no namespace {namespace!r}, and no module is called so: write "
            f"gym:PACKAGE:{name} with the package that registers it"
        )
    try:
        gymnasium.spec(name)
    except error.UnregisteredEnv as problem:
        raise _make_unknown_error(name) from problem
    except error.Error as problem:
        raise EnvSettingsError(f"gym:{name}: {_join_lines(problem)}") from problem


def names_code(name: str) -> bool:
    """Say whether making the id imports a module of another package than this project names."""
    if ":" in name:
        return True
    spec = gymnasium.registry.get(name)
    if spec is None:  # Gymnasium completes an id without its version, also that of another package
        return find_package(name) is None
    entry = spec.entry_point or spec.vector_entry_point or ""
    module = entry.partition(":")[0] if isinstance(entry, str) else entry.__module__
    packages = ("gymnasium", *(package.module for package in PACKAGES))
    return module.partition(".")[0] not in packages


def _make_unknown_error(name: str) -> EnvSettingsError:
    near = difflib.get_close_matches(name, gymnasium.registry.keys(), 1, 0.5)
    hint = f", did you mean 'gym:{near[0]}'?" if near else ""
    return EnvSettingsError(f"Gymnasium knows no environment {name!r}{hint}")


def make_registered(name: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Make the Gymnasium environment `name`, or raise EnvSettingsError saying what is missing."""
    for key, why in _RESERVED.items():
        if key in kwargs:
            raise EnvSettingsError(f"env.kwargs.{key} cannot be set: {why}")
    package = find_package(name)
    if package and name in gymnasium.registry and package.module not in sys.modules:
        package = None  # another package has registered an id that begins so
    given = f" with env.kwargs {dict(kwargs)}" if kwargs else ""
    try:
        _import_package(name, package)
        if package and package.adapter:
            adapter = importlib.import_module(f".adapters.{package.adapter}", __package__)
            return adapter.make(name, copy.deepcopy(dict(kwargs)))
        return gymnasium.make(
            name, render_mode="rgb_array", disable_env_checker=True, **copy.deepcopy(dict(kwargs))
        )
    except (error.DependencyNotInstalled, ImportError) as problem:
        raise MissingPackageError(
            f"gym:{name} needs a missing package: {_explain_missing(problem)}"
        ) from problem
    except error.UnregisteredEnv as problem:
        raise _make_unknown_error(name) from problem
    except EnvSettingsError:
        raise
    except error.Error as problem:
        raise EnvSettingsError(
            f"gym:{name} cannot be made{given}: {_join_lines(problem)}"
        ) from problem
    except Exception as problem:
        # Without kwargs only Gymnasium's own check of what was made is known to be a mistake.
        if not kwargs and "gymnasium.Env" not in str(problem):
            raise
        raise EnvSettingsError(
            f"gym:{name} cannot be made{given}: {_join_lines(problem)}"
        ) from problem


def _import_package(name: str, package: Package | None) -> None:
    """Import the package that registers the id; Gymnasium itself imports that before a colon."""
    namespace, slash, _ = name.partition("/")
    spec = gymnasium.registry.get(name)
    entry = spec.entry_point if spec else ""
    if (package and package.mujoco) or str(entry).startswith("gymnasium.envs.mujoco"):
        _choose_gl_backend()
    if package:
        gymnasium.register_envs(importlib.import_module(package.module))
    elif slash and ":" not in name and spec is None:
        gymnasium.register_envs(importlib.import_module(namespace))


def _choose_gl_backend() -> None:
    """Where there is no display and nothing is chosen, draw by EGL: GLFW would end the process."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        backend = "egl" if ctypes.util.find_library("EGL") else "disable"
        os.environ.setdefault("MUJOCO_GL", backend)


def _explain_missing(problem: BaseException) -> str:
    """Return what a package that is missing says, with the pip of this program's Python."""
    return _join_lines(problem).replace("pip install", f"{sys.executable} -m pip install")


def make_custom(name: str, size: tuple[int, int], kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Make a user's environment `package.module:Class` with `kwargs`.

    It also gets `size` and `render_mode`, if it has arguments of these names that can hold them.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as problem:
        missing = (problem.name or "").partition(".")[0]
        is_other = (
            isinstance(problem, ModuleNotFoundError) and missing != module_name.partition(".")[0]
        )
        raise (MissingPackageError if is_other else EnvSettingsError)(
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
    env = _call(target, name, {"size": size, "render_mode": "rgb_array"}, kwargs)
    if not isinstance(env, gymnasium.Env):
        raise EnvSettingsError(
            f"{name}: {attribute} gives {type(env).__name__}, which is not a gymnasium.Env"
        )
    return env


def _call(target: Any, name: str, offers: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a user's class with `kwargs` and those of the offers that it declares."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # callables written in C may have no signature
        return target(**copy.deepcopy(dict(kwargs)))
    hints = _read_hints(target)
    taken = {
        key: offer
        for key, offer in offers.items()
        if key in signature.parameters
        and _can_hold(hints.get(key, signature.parameters[key].annotation), offer)
        and _resembles(signature.parameters[key].default, offer)
    }
    arguments = {**taken, **copy.deepcopy(dict(kwargs))}
    try:
        signature.bind(**arguments)
    except TypeError as problem:
        takes = ", ".join(signature.parameters) or "nothing"
        raise EnvSettingsError(
            f"{name}: env.kwargs: {_join_lines(problem)}; it takes {takes}"
        ) from problem
    try:
        return target(**arguments)
    except EnvSettingsError:
        raise
    except (error.DependencyNotInstalled, ModuleNotFoundError) as problem:
        raise MissingPackageError(
            f"{name} needs a missing package: {_explain_missing(problem)}"
        ) from problem
    except Exception as problem:
        if not kwargs:
            raise
        raise EnvSettingsError(
            f"{name} cannot be made with env.kwargs {dict(kwargs)}: {_join_lines(problem)}"
        ) from problem


def _read_hints(target: Any) -> dict[str, Any]:
    """Return the types of a callable's arguments; of those that cannot be evaluated, none."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, AttributeError, TypeError):
        return {}


def _can_hold(kind: Any, value: Any) -> bool:
    """Say whether an argument of this type may be given the value; one without a type may."""
    if kind in (inspect.Parameter.empty, Any) or isinstance(kind, (str, TypeVar)):
        return True
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_can_hold(part, value) for part in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if origin is Annotated:
        return _can_hold(get_args(kind)[0], value)
    return isinstance(value, origin or kind) if isinstance(origin or kind, type) else False


def _resembles(default: Any, value: Any) -> bool:
    """Say whether a default looks as if the value may stand for it."""
    if default is inspect.Parameter.empty or default is None:
        return True
    if isinstance(value, tuple):
        return isinstance(default, (tuple, list)) and len(default) == len(value)
    return isinstance(default, type(value))


def adapt(
    env: gymnasium.Env,
    name: str,
    *,
    size: tuple[int, int],
    repeat: int,
    time_limit: int | None,
    obs: str,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    image_keys: Sequence[str] | None = None,
    vector_keys: Sequence[str] | None = None,
) -> gymnasium.Env:
    """Wrap `env` with normalised actions, a time limit, an action repeat and observations."""
    try:
        env = adapt_action(RefuseAutoreset(CheckReturn(env)), name)
        if time_limit is not None:
            env = TimeLimit(env, time_limit)
        env = ActionRepeat(env, repeat)
        return adapt_obs(env, name, size, obs, sizes, image_keys, vector_keys)
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


def adapt_obs(
    env: gymnasium.Env,
    name: str,
    size: tuple[int, int],
    obs: str,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    image_keys: Sequence[str] | None = None,
    vector_keys: Sequence[str] | None = None,
) -> gymnasium.Env:
    """Adapt observations to this package's form, and say in one line what is taken."""
    space = read_space(env, name, "observation_space")
    choice = choose_observations(space, name, obs, image_keys, vector_keys)
    if choice.rendered:
        _probe_render(env, name)
    adapted = ObservationSelector(env, name, choice, size, sizes)
    _say_once(f"{name} observes {adapted.describe()}")
    return adapted


@functools.cache
def _say_once(line: str) -> None:
    _log.info("%s", line)


def _probe_render(env: gymnasium.Env, name: str) -> None:
    """Draw one picture now, so that a missing package is reported before training starts."""
    try:
        env.reset(seed=0)
    except error.DependencyNotInstalled as problem:
        raise MissingPackageError(
            f"{name} cannot start without a package: {_explain_missing(problem)}"
        ) from problem
    try:
        picture = env.render()
    except error.DependencyNotInstalled as problem:
        raise MissingPackageError(
            f"{name} cannot draw pictures without a package: {_explain_missing(problem)}"
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
