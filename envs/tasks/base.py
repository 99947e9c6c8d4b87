"""The base class of the built-in tasks: spaces, seeding, and observations of the true state."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from ..errors import EnvSettingsError
from .canvas import Canvas


class Task(gymnasium.Env):
    """A simulated task drawn with numpy.

    A subclass implements `start`, `advance`, `draw`, `state`, `set_state` and `make_canvas`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}
    episode_steps: ClassVar[int]  # the default time limit, applied by envs.make
    vector_size: int
    steps_rows: ClassVar[bool] = False  # whether there is `advance_rows`
    angles: ClassVar[tuple[int, ...]] = ()  # entries of the state that are angles in [-pi, pi]

    def __init__(self, size: tuple[int, int] = (64, 64), obs: str = "pixels"):
        self.render_mode = "rgb_array"
        self.obs = obs
        self.board = self.make_canvas(size)
        image = spaces.Box(0, 255, (*size, 3), np.uint8)
        vector = spaces.Box(-np.inf, np.inf, (self.vector_size,), np.float32)
        offers: dict[str, spaces.Space] = {"pixels": image, "state": vector}
        offers["both"] = spaces.Dict({"image": image, "vector": vector})
        self.observation_space = offers[obs]

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        """Make the canvas and draw everything that never moves on it."""
        raise NotImplementedError

    def start(self, generator: np.random.Generator) -> None:
        """Begin an episode."""
        raise NotImplementedError

    def advance(self, action: Any) -> tuple[float, bool]:
        """Simulate one control step and return the reward and whether the episode terminated."""
        raise NotImplementedError

    def draw(self, board: Canvas) -> None:
        """Draw everything that moves."""
        raise NotImplementedError

    def state(self) -> np.ndarray:
        """Return the true state as a flat float64 vector."""
        raise NotImplementedError

    def set_state(self, state: np.ndarray) -> None:
        """Go on from a state that `state` returned."""
        raise NotImplementedError

    def advance_rows(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Simulate a control step from each state (N,n): next states, rewards (N,), ends (N,)."""
        raise NotImplementedError

    def vector(self) -> np.ndarray:
        """Return the vector observation; by default the true state."""
        return self.state().astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.start(self.np_random)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward, terminated = self.advance(action)
        return self._observe(), float(reward), bool(terminated), False, {}

    def render(self) -> np.ndarray:
        self.board.clear()
        self.draw(self.board)
        return self.board.to_pixels()

    def mask(self) -> np.ndarray:
        """Return the share (H, W) in [0, 1] of each pixel of the last picture that moves."""
        if self.board.cover is None:
            self.board.track_cover()
            self.render()
        assert self.board.cover is not None
        return self.board.cover

    def _observe(self) -> Any:
        if self.obs == "state":
            return self.vector()
        if self.obs == "pixels":
            return self.render()
        return {"image": self.render(), "vector": self.vector()}


def wrap_angles(angles: np.ndarray) -> np.ndarray:
    """Return the angles in [-pi, pi]."""
    return angles - 2 * np.pi * np.rint(angles / (2 * np.pi))


def check_start(start: Any) -> bool:
    """Say whether episodes start anywhere instead of in the task's usual place."""
    if start not in ("usual", "anywhere"):
        raise EnvSettingsError(f"env.kwargs.start must be usual or anywhere, not {start!r}")
    return start == "anywhere"


def make_action_box(num_actions: int) -> spaces.Box:
    """Make the continuous action space (A,) in [-1, 1]."""
    return spaces.Box(-1.0, 1.0, (num_actions,), np.float32)
