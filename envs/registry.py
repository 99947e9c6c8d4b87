"""Making environments by name: built-in, DeepMind Control, Gymnasium or a user's own class."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import EnvSettingsError
from .names import DISTRACT, NAMES, check_name, may_name_code, names_code

if TYPE_CHECKING:
    import gymnasium

    from .facts import TaskFacts
    from .parallel.vector import SupervisedEnvs
    from .simulator import Simulator

_CLASSES = {
    "pointmass": "PointMass",
    "pendulum": "Pendulum",
    "catcher": "Catcher",
    "rope": "Rope",
    "pushing": "Pushing",
    "cartpole": "Cartpole",
    "cartpole_swingup": "CartpoleSwingup",
    "noisy_room": "NoisyRoom",
    "planar": "Planar",
    "pcc_planar": "PccPlanar",
    "pcc_pendulum": "PccPendulum",
    "pcc_cartpole": "PccCartpole",
    "counter": "Counter",
}
_OBS = ("pixels", "state", "both")


def make_factory(
    env: Any, distract: Any, trust: bool = False, simulator: bool = False
) -> partial[gymnasium.Env]:
    """Return `make` with the settings of a run's sections env and distract bound.

    Patience is left out: only collecting uses it. A task that names code is refused without
    `trust`, because anyone may have written a saved run's settings.
    """
    _check_trust(env, trust)
    return partial(
        make,
        env.task,
        size=tuple(env.size),
        repeat=env.repeat,
        time_limit=env.time_limit,
        obs=env.obs,
        render=env.render,
        camera=env.camera,
        sizes={name: (height, width) for name, (height, width) in env.sizes.items()},
        kwargs=env.kwargs,
        image_keys=env.image_keys,
        vector_keys=env.vector_keys,
        starts=env.starts,
        strength=distract.strength,
        kind=distract.kind,
        simulator=simulator,
    )


def describe_task(env: Any) -> TaskFacts:
    """Read the facts of a run's task that rules of the configuration need.

    It makes the environment, whose code the command line named.
    """
    from .facts import read_facts

    return read_facts(
        partial(
            make,
            env.task.removeprefix(DISTRACT),
            size=tuple(env.size),
            time_limit=env.time_limit,
            obs="state" if env.obs == "state" else "pixels",
            render="ray",
            kwargs=env.kwargs,
            image_keys=env.image_keys,
            vector_keys=env.vector_keys,
        )
    )


def make_simulator(env: Any, trust: bool = False) -> Simulator:
    """Return a simulator of a run's task, which steps from any state, to plan in the truth.

    As in `make_factory`, a task that names code is refused without `trust`.
    """
    from .simulator import Simulator

    _check_trust(env, trust)
    name = env.task.removeprefix(DISTRACT)
    with contextlib.nullcontext() if names_code(name) else _leave_directory():
        copy = _make_undistracted(
            name, tuple(env.size), 1, None, "state", "auto", None, None, env.kwargs, None, None
        )
    return Simulator(copy, name, env.repeat)


def _check_trust(env: Any, trust: bool) -> None:
    """Raise EnvSettingsError if a run's section env names code, unless it is trusted."""
    for key, may in (("task", names_code(env.task)), ("kwargs", may_name_code(env.kwargs))):
        if may and not trust:
            raise EnvSettingsError(
                f"env.{key} {str(getattr(env, key))[:60]!r} names code, and making it executes "
                f"that code: if you trust it, give make_factory trust=True"
            )


def choose_renderer(env: Any, before: Any = None) -> str:
    """Choose the renderer of a run's pictures.

    `auto` is the renderer used `before`, else the best one for this machine.
    """
    if (
        env.render != "auto"
        or env.obs == "state"
        or not env.task.removeprefix(DISTRACT).startswith("dmc:")
    ):
        return env.render
    from .dmc import render

    name = env.render if before is None else before.render
    try:
        return render.choose_and_log(name)
    except render.RendererError as error:
        raise render.RendererError(
            f"this run's pictures were drawn with {name} so far, and {error}"
        ) from None


def make(
    name: str,
    *,
    size: tuple[int, int] | int = (64, 64),
    repeat: int = 1,
    time_limit: int | None = None,
    obs: str = "pixels",
    render: str = "auto",
    camera: int | str | Sequence[int | str] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    image_keys: Sequence[str] | None = None,
    vector_keys: Sequence[str] | None = None,
    patience: int | None = None,
    floor: float = 0.0,
    starts: int = 0,
    strength: float = 1.0,
    kind: str = "both",
    held_out: bool = False,
    simulator: bool = False,
) -> gymnasium.Env:
    """Make the environment `name`.

    Observations are Box (H, W, 3) uint8, with obs=state Box (n,) float32, with obs=both a Dict of
    image and vector. Several cameras, or a Dict of several pictures, give a Dict by name; `sizes`
    has the pictures whose size is not `size`. `kwargs` go to the constructor of gym: ids and user
    classes; `image_keys` and `vector_keys` choose among what these observe.

    Actions are Box(-1, 1, (A,)), Discrete or
    MultiDiscrete. `time_limit` counts control steps; None keeps the task's. `patience` ends an
    episode after so many steps in a row with a reward of at most `floor` per control step.
    With `starts` episodes begin in one of so many ways: seeds count by their rest.
    `strength` and `kind` describe the backgrounds of distract: tasks; with `held_out` they are
    others than in training. `simulator` adds the simulator's full state to the observation, as
    the entry of this name.

    The wrappers from the inside out: normalised actions, time limit, repeat, picture, background,
    boundary checks. The time limit is inside the repeat, so that no episode exceeds it. The
    picture is outside the repeat, so that repeated steps are not drawn.
    """
    check_name(name)
    size = _check_arguments(size, repeat, time_limit, obs)
    plain = name.removeprefix(DISTRACT)
    if not plain.startswith("dmc:") and camera is not None:
        raise EnvSettingsError(f"{name} has one camera only: leave camera empty (got {camera!r})")
    from .wrappers import Check, Patience

    with contextlib.nullcontext() if names_code(name) else _leave_directory():
        env = _make_undistracted(
            plain,
            size,
            repeat,
            time_limit,
            obs,
            render,
            camera,
            sizes,
            kwargs,
            image_keys,
            vector_keys,
        )
    if name != plain:
        env = _add_distractors(env, plain, strength, kind, held_out)
    if simulator:
        from .simulator import ObserveSimulator

        env = ObserveSimulator(env, plain)
    env = Check(env, name)
    if starts:
        from .wrappers import FixedStarts

        env = FixedStarts(env, starts)
    return Patience(env, patience, floor) if patience else env


@contextlib.contextmanager
def _leave_directory() -> Iterator[None]:
    """Leave the working directory, which may be a run of anyone's, for the root of all folders.

    The import of GLFW's package starts `python -c`, which imports from where it is started.
    """
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(os.sep)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def load_expert(name: str) -> Callable[[gymnasium.Env], Any]:
    """Return the expert policy of a built-in task, which acts on the environment's true state."""
    plain = name.removeprefix(DISTRACT)
    if plain not in NAMES:
        raise EnvSettingsError(f"there is no expert for {name!r}, only for {', '.join(NAMES)}")
    policy = importlib.import_module(f".tasks.{plain}", __package__).expert
    return lambda env: policy(env.unwrapped)


def _make_undistracted(
    name: str,
    size: tuple[int, int],
    repeat: int,
    time_limit: int | None,
    obs: str,
    render: str,
    camera: int | str | Sequence[int | str] | None,
    sizes: Mapping[str, tuple[int, int]] | None,
    kwargs: Mapping[str, Any] | None,
    image_keys: Sequence[str] | None,
    vector_keys: Sequence[str] | None,
) -> gymnasium.Env:
    """Make an environment without distractors and checks."""
    if name in NAMES or name.startswith("dmc:"):
        given: dict[str, Any] = {"image_keys": image_keys, "vector_keys": vector_keys}
        if name not in NAMES:
            given["kwargs"] = kwargs
        for key in (key for key, value in given.items() if value):
            raise EnvSettingsError(f"env.{key}: only gym: ids and your own classes take it")
    if name in NAMES:
        if sizes:
            raise EnvSettingsError(
                f"{name} has one picture, of size: leave sizes empty (got {sizes})"
            )
        return _make_builtin(name, size, repeat, time_limit, obs, kwargs or {})
    if name.startswith("dmc:"):
        from .dmc.suite import DMC

        task = name.removeprefix("dmc:")
        return DMC(
            task,
            size=size,
            repeat=repeat,
            render=render,
            camera=camera,
            obs=obs,
            time_limit=time_limit,
            sizes=sizes,
        )
    from . import gymnasium_adapter

    if name.startswith("gym:"):
        inner = gymnasium_adapter.make_registered(name.removeprefix("gym:"), kwargs or {})
    else:
        inner = gymnasium_adapter.make_custom(name, size, kwargs or {})
    return gymnasium_adapter.adapt(
        inner,
        name,
        size=size,
        repeat=repeat,
        time_limit=time_limit,
        obs=obs,
        sizes=sizes,
        image_keys=image_keys,
        vector_keys=vector_keys,
    )


def _add_distractors(
    env: gymnasium.Env, name: str, strength: float, kind: str, held_out: bool
) -> gymnasium.Env:
    """Replace the background by moving pictures."""
    from .distract import KINDS, Distract

    try:
        if not 0.0 <= strength <= 1.0:
            raise EnvSettingsError(f"strength must lie between 0 and 1, not {strength!r}")
        if kind not in KINDS:
            raise EnvSettingsError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        return Distract(env, name, strength, kind, held_out)
    except BaseException:
        env.close()
        raise


def _make_builtin(
    name: str,
    size: tuple[int, int],
    repeat: int,
    time_limit: int | None,
    obs: str,
    kwargs: Mapping[str, Any],
) -> gymnasium.Env:
    from .wrappers import ActionRepeat, TimeLimit

    task = getattr(importlib.import_module(f".tasks.{name}", __package__), _CLASSES[name])
    taken = [key for key in inspect.signature(task).parameters if key not in ("size", "obs")]
    for key in (key for key in kwargs if key not in taken):
        if not taken:
            raise EnvSettingsError(f"env.kwargs: {name} takes no arguments (got {key!r})")
        near = difflib.get_close_matches(str(key), taken, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise EnvSettingsError(f"env.kwargs.{key}: {name} takes {', '.join(taken)}{hint}")
    limit = task.episode_steps if time_limit is None else time_limit
    return ActionRepeat(TimeLimit(task(size=size, obs=obs, **kwargs), limit), repeat)


def _check_arguments(
    size: tuple[int, int] | int, repeat: int, time_limit: int | None, obs: str
) -> tuple[int, int]:
    """Check the arguments; return size as (height, width)."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 8 for n in pair):
        raise EnvSettingsError(
            f"size must be height and width, whole numbers of at least 8, not {size!r}"
        )
    if not isinstance(repeat, int) or repeat < 1:
        raise EnvSettingsError(f"repeat must be a whole number of at least 1, not {repeat!r}")
    if time_limit is not None and (not isinstance(time_limit, int) or time_limit < 1):
        raise EnvSettingsError(
            f"time_limit must be a whole number of control steps, at least 1, or none, not "
            f"{time_limit!r}"
        )
    if obs not in _OBS:
        near = difflib.get_close_matches(str(obs), _OBS, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise EnvSettingsError(f"obs must be one of {', '.join(_OBS)}, not {obs!r}{hint}")
    return pair[0], pair[1]


def make_vector(
    make_fn: Callable[[], gymnasium.Env], num_envs: int, *, timeout_s: float, restart_budget: int
) -> SupervisedEnvs:
    """Make a vector of environments: one runs in this process, several in a process each."""
    from .parallel import vector

    return vector.make_vector(
        make_fn, num_envs, timeout_s=timeout_s, restart_budget=restart_budget
    )
