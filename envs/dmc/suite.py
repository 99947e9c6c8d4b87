"""The DeepMind Control suite as Gymnasium environments; seed and actions determine an episode."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ..errors import EnvSettingsError
from ..names import ALIASES
from ..wrappers import FrameCounter, pick_sizes, place_side_by_side
from . import render as rendering
from .segmentation import mask_foreground

Cameras = int | str | Sequence[int | str] | None  # number or name; None is the usual camera

_CAMERAS = {"quadruped": 2}  # domains whose usual camera is not camera 0
_OBS = ("pixels", "state", "both")
_RANDOM_MODELS = ("lqr",)  # domains whose model itself is drawn from the seed
_RANDOM_TERRAINS = ("quadruped_escape",)
_UNBOUNDED = 1e6  # actions with bounds beyond this are not normalised


def split_task(task: str) -> tuple[str, str]:
    """Split a name such as ball_in_cup_catch into the suite's domain and task."""
    from dm_control import suite

    names = {f"{domain}_{each}": (domain, each) for domain, each in suite.ALL_TASKS}
    name = ALIASES.get(task, task)
    if name not in names:
        close = difflib.get_close_matches(str(name), [*names, *ALIASES], 1, 0.5)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else "names are domain_task, such as walker_walk"
        )
        raise EnvSettingsError(f"unknown DeepMind Control task {task!r}: {hint}")
    return names[name]


class DMC(gymnasium.Env, FrameCounter):
    """One task of the suite; a step repeats its action and sums the rewards."""

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        size: tuple[int, int] = (64, 64),
        repeat: int = 1,
        render: str = "auto",
        camera: Cameras = None,
        obs: str = "pixels",
        time_limit: int | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Build the task; `time_limit` is in control steps, None keeps the suite's.

        One camera draws the picture `image`; of several, number 2 draws `camera2`. `sizes` has the
        pictures that differ from `size`, by name.
        """
        self.size, self._pixels, self._vector = _check_arguments(size, repeat, obs, time_limit)
        self._repeat, self._time_limit, self._asked = repeat, time_limit, render
        self.renderer_name = ""
        self._renderers: dict[str, Any] = {}
        if self._pixels:
            self._choose_renderer()
        else:
            rendering.check_renderer(render)
            rendering.load_simulator("ray")
        self.domain, self.task = split_task(task)
        self._env = self._load(0)
        self._cameras = self._find_cameras(camera)
        self._sizes = pick_sizes(f"dmc:{task}", list(self._cameras), self.size, sizes)
        self._set_spaces()
        self._running = False
        self._last: Any = None

    def _load(self, seed: Any) -> Any:
        """Build the suite's environment."""
        from dm_control import suite

        noise, level = logging.getLogger("absl"), logging.getLogger("absl").level
        noise.setLevel(logging.ERROR)  # models of the suite itself draw deprecation warnings
        try:
            env = suite.load(
                self.domain, self.task, task_kwargs={"random": np.random.RandomState(seed)}
            )
        finally:
            noise.setLevel(level)
        if self._time_limit is not None:
            env._step_limit = self._time_limit
        if self.renderer_name not in ("gl", "fast"):
            # Some tasks look up a GL context when an episode starts, which raises without GL.
            kind = type(env.physics)
            env.physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
        return env

    def _find_cameras(self, camera: Cameras) -> dict[str, int]:
        """Return the number of the camera of each picture."""
        if camera is None or isinstance(camera, int | str):
            return {"image": self._find_camera(camera)}
        numbers = [self._find_camera(each) for each in camera]
        if not numbers or len(set(numbers)) < len(numbers):
            raise EnvSettingsError(f"camera must be one camera, or different ones, not {camera!r}")
        names = [f"camera{number}" for number in numbers] if len(numbers) > 1 else ["image"]
        return dict(zip(names, numbers, strict=True))

    def _find_camera(self, camera: int | str | None) -> int:
        """Return a camera's number; None is the domain's usual camera."""
        model = self.physics.model
        if camera is None:
            return _CAMERAS.get(self.domain, 0)
        names = [model.id2name(index, "camera") for index in range(model.ncam)]
        if camera in names:
            return names.index(camera)
        if isinstance(camera, int) and 0 <= camera < model.ncam:
            return camera
        known = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
        raise EnvSettingsError(f"{self.domain} has no camera {camera!r}: choose one of {known}")

    def _set_spaces(self) -> None:
        """Derive both spaces from the task's specs."""
        spec = self._env.action_spec()
        low, high = (
            np.broadcast_to(spec.minimum, spec.shape),
            np.broadcast_to(spec.maximum, spec.shape),
        )
        bounded = np.maximum(np.abs(low), np.abs(high)) < _UNBOUNDED
        self._middle = np.where(bounded, (low + high) / 2, 0.0)
        self._span = np.where(bounded, (high - low) / 2, 1.0)
        self.action_space = spaces.Box(-1, 1, spec.shape, np.float32)
        count = sum(int(np.prod(each.shape)) for each in self._env.observation_spec().values())
        parts: dict[str, spaces.Space] = {}
        if self._pixels:
            for name, size in self._sizes.items():
                parts[name] = spaces.Box(0, 255, (*size, 3), np.uint8)
        if self._vector:
            parts["vector"] = spaces.Box(-np.inf, np.inf, (count,), np.float32)
        self._only = next(iter(parts)) if len(parts) == 1 else ""
        self.observation_space = parts[self._only] if self._only else spaces.Dict(parts)

    def _choose_renderer(self) -> None:
        """Choose the renderer and load dm_control for it."""
        self.renderer_name = rendering.choose_and_log(self._asked)
        rendering.load_simulator(self.renderer_name)

    @property
    def physics(self) -> Any:
        """The simulation."""
        return self._env.physics

    @property
    def control_step(self) -> float:
        """Seconds of one control step."""
        return float(self._env.control_timestep())

    @property
    def step_limit(self) -> int | None:
        """Control steps after which an episode ends; None if it never does."""
        limit = self._env._step_limit
        return int(limit) if limit < float("inf") else None

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the episode of `seed`, or of a seed from the environment's own generator."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**62))
        words = np.random.SeedSequence(seed).generate_state(4)
        if self.domain in _RANDOM_MODELS:
            self._free_simulation()
            self._env = self._load(words)
        else:
            self._env.task.random.seed(words)
        self._last = self._env.reset()
        self._running = True
        return self._observe(), {"seed": seed}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Repeat the action, clipped to [-1, 1], until the episode ends, and sum the rewards."""
        reward, self.frames = self.advance(action)
        over = self._last.last()
        terminated = bool(over and self._last.discount == 0)
        return (
            self._observe(),
            reward,
            terminated,
            bool(over and not terminated),
            {},
        )

    def advance(self, action: np.ndarray) -> tuple[float, int]:
        """Simulate a step without observing; return summed reward and number of control steps."""
        if not self._running:
            raise gymnasium.error.ResetNeeded(
                "the episode is over or was never begun: call reset() first"
            )
        native = self._scale_action(action)
        reward, frames = 0.0, 0
        for _ in range(self._repeat):
            self._last = self._env.step(native)
            reward += float(self._last.reward or 0.0)
            frames += 1
            if self._last.last():
                self._running = False
                break
        return reward, frames

    @property
    def can_restore(self) -> bool:
        """Say whether the physics' state and single numbers of the model determine the rest."""
        task = f"{self.domain}_{self.task}"
        return self.domain not in _RANDOM_MODELS and task not in _RANDOM_TERRAINS

    def simulate(self, action: np.ndarray) -> tuple[float, bool]:
        """Simulate one control step without time limit and observation: reward, and termination.

        These are the lines of dm_control's `Environment.step` that change the physics.
        """
        task, physics = self._env.task, self.physics
        task.before_step(self._scale_action(action), physics)
        physics.step(self._env._n_sub_steps)
        task.after_step(physics)
        reward = float(task.get_reward(physics) or 0.0)
        return reward, task.get_termination(physics) == 0

    @property
    def over(self) -> bool:
        """Say whether the episode has ended or not started."""
        return not self._running

    def _scale_action(self, action: np.ndarray) -> np.ndarray:
        """Scale the action from [-1, 1] to the task's own bounds."""
        action = np.asarray(action, np.float64)
        shape = self.action_space.shape
        if action.shape != shape:
            raise ValueError(
                f"the action has shape {action.shape}, but {self.domain}_{self.task} takes {shape}"
            )
        if not np.isfinite(action).all():
            raise ValueError(f"the action holds a value that is not finite: {action.tolist()}")
        return self._middle + self._span * np.clip(action, -1, 1)

    def _observe(self) -> Any:
        """Return the observation in the configured form."""
        parts = self.pictures() if self._pixels else {}
        if self._vector:
            parts["vector"] = self.state()
        return parts[self._only] if self._only else parts

    def state(self) -> np.ndarray:
        """Return the task's own observations as one float32 vector (n,)."""
        if self._last is None:
            raise gymnasium.error.ResetNeeded("there is no state yet: call reset() first")
        parts = [np.ravel(each) for each in self._last.observation.values()]
        return np.concatenate(parts).astype(np.float32)

    def pictures(self) -> dict[str, np.ndarray]:
        """Render every camera's current picture (height, width, 3) uint8, by name."""
        return {name: self._get_renderer(name).render(self.physics) for name in self._cameras}

    def render(self) -> np.ndarray:
        """Return the current picture (height, width, 3) uint8; several are side by side."""
        return place_side_by_side(list(self.pictures().values()))

    def segment(self) -> np.ndarray:
        """Return the first camera's mask (height, width) of what is neither sky nor ground."""
        drawer = self._get_renderer(next(iter(self._cameras)))
        return mask_foreground(self.physics, drawer.segment(self.physics))

    def mask(self) -> Any:
        """Return each pixel's share (height, width) of foreground in the last picture.

        Several pictures give several masks by name.
        """
        masks = {name: self._get_renderer(name).mask(self.physics) for name in self._cameras}
        return masks if len(masks) > 1 else masks["image"]

    def _get_renderer(self, name: str) -> Any:
        """Return a picture's renderer, made on first use."""
        if name not in self._renderers:
            if not self.renderer_name:
                self._choose_renderer()
                self._restore_gl_class()
            heights, widths = zip(*self._sizes.values(), strict=True)
            self._renderers[name] = rendering.make_renderer(
                self.renderer_name,
                self._sizes[name],
                self._cameras[name],
                (max(heights), max(widths)),
            )
        return self._renderers[name]

    def _restore_gl_class(self) -> None:
        """Undo `_load`'s removal of the GL contexts if GL draws after all."""
        if self.renderer_name in ("gl", "fast"):
            self.physics.__class__ = type(self.physics).__mro__[1]

    def _free_simulation(self) -> None:
        """Free the current simulation and its renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._env.close()

    def close(self) -> None:
        """Free the simulation and any GL context."""
        if self._env is not None:
            self._free_simulation()
        self._env, self._renderers = None, {}
        self._running = False


def _check_arguments(
    size: Any, repeat: Any, obs: str, time_limit: Any
) -> tuple[tuple[int, int], bool, bool]:
    """Check the arguments; return the size and whether pixels and vectors are observed."""
    size = tuple(size)
    if len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size):
        raise EnvSettingsError(
            f"size must be (height, width), whole numbers of at least 1, not {size}"
        )
    if not isinstance(repeat, int) or repeat < 1:
        raise EnvSettingsError(f"repeat must be a whole number of at least 1, not {repeat!r}")
    if time_limit is not None and not (isinstance(time_limit, int) and time_limit >= 1):
        raise EnvSettingsError(
            f"time_limit must be a number of control steps of at least 1, or None, not "
            f"{time_limit!r}"
        )
    if obs not in _OBS:
        raise EnvSettingsError(f"obs must be one of {', '.join(_OBS)}, not {obs!r}")
    return size, obs != "state", obs != "pixels"
