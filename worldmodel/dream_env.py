"""`DreamEnv`: a saved world model as a `gymnasium.Env` that needs no simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from worldmodel.errors import RunError, UsageError
from worldmodel.model.mean_image import to_pixels
from worldmodel.replay.buffer import ReplayError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.montage import join_arrays
from worldmodel.saved_run import Run, check_seen
from worldmodel.spaces import State, map_state
from worldmodel.system.runtime import autocast

OBSERVED = ("pixels", "features")
ENDS = ("drawn", "threshold")


class DreamEnv(gymnasium.Env):
    """Episodes that the model imagines, from a random step of the replay after `context` rows.

    `reset(options={"obs": picture})` starts instead from the first observation of an episode: a
    picture or vector, or a dict of all by name. Observations are decoded `pixels`, a dict where
    the run sees several pictures, or the latent's `features`; rewards are expected ones. An
    episode terminates by sampling the continuation head, or if termination is more likely than
    not (`threshold`), and is truncated after `horizon` steps. Everything is a function of seed
    and actions.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        run: Run | str | Path,
        obs: str = "pixels",
        horizon: int = 100,
        seed: int = 0,
        *,
        context: int = 5,
        ends: str = "drawn",
        device: str = "cpu",
        render_mode: str | None = None,
    ):
        _check_choice("obs", obs, OBSERVED)
        _check_choice("ends", ends, ENDS)
        _check_choice("render_mode", render_mode, (None, "rgb_array"))
        for name, value in (("horizon", horizon), ("context", context)):
            if not isinstance(value, int) or value < 1:
                raise UsageError(
                    f"DreamEnv: {name} must be a whole number of at least 1, not {value!r}"
                )
        self.run = run if isinstance(run, Run) else Run.open(run, device)
        self.model, self.agent = self.run.model, self.run.agent
        if (obs == "pixels" or render_mode) and not (
            self.model.can_draw and self.run.observation_space.pictures
        ):
            raise UsageError(
                "DreamEnv: this model cannot draw; use obs='features' and no render_mode"
            )
        self.obs, self.horizon, self.context, self.ends = obs, horizon, context, ends
        self.render_mode = render_mode
        self.observation_space = self._make_observation_space()
        self.action_space = self._make_action_space()
        self.generator = torch.Generator(self.agent.device)
        self.state: State | None = None
        self.steps = 0
        self._first: int | None = seed  # seed of the first reset without one
        self._saved: SavedEpisodes | None = None

    def _make_observation_space(self) -> spaces.Space:
        if self.obs == "pixels":
            shapes = self.run.observation_space.pictures
            boxes: dict[str, spaces.Space] = {
                name: spaces.Box(0, 255, shape, np.uint8) for name, shape in shapes.items()
            }
            return spaces.Dict(boxes) if len(boxes) > 1 else next(iter(boxes.values()))
        return spaces.Box(-np.inf, np.inf, (self.model.dynamics.feature_size,), np.float32)

    def _make_action_space(self) -> spaces.Space:
        space = self.run.action_space
        if not space.discrete:
            return spaces.Box(-1.0, 1.0, (space.size,), np.float32)
        return (
            spaces.Discrete(space.groups[0])
            if space.scalar
            else spaces.MultiDiscrete(np.array(space.groups))
        )

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[Any, dict[str, Any]]:
        seed, self._first = self._first if seed is None else seed, None
        super().reset(seed=seed)
        self.generator.manual_seed(int(self.np_random.integers(2**62)))
        info: dict[str, Any] = {}
        if options and "obs" in options:
            rows = self._make_first_row(options["obs"])
        else:
            rows, info = self._sample_replay()
        self.state, self.steps = self.agent.observe_rows(rows, self.generator), 0
        return self._observe(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.state is None:
            raise gymnasium.error.ResetNeeded("DreamEnv: call reset before step")
        vector = torch.from_numpy(self._encode_action(action))[None].to(self.agent.device)
        with torch.no_grad(), autocast(self.agent.device, self.agent.precision):
            found = self.model.dynamics.imagine_step(self.state, vector, self.generator)
            self.state = map_state(found, torch.Tensor.float)
            reward, cont = (
                float(x)
                for x in self.model.predict_for_planning(self.model.dynamics.features(self.state))
            )
        self.steps += 1
        bar = self.np_random.random() if self.ends == "drawn" else 0.5
        return self._observe(), reward, cont <= bar, self.steps >= self.horizon, {"cont": cont}

    def render(self) -> np.ndarray | None:
        """The imagined picture, if `render_mode` is rgb_array."""
        if self.render_mode is None:
            return None
        if self.state is None:
            raise gymnasium.error.ResetNeeded("DreamEnv: call reset before render")
        return join_arrays(self._decode(self.state))

    def _observe(self) -> Any:
        assert self.state is not None
        if self.obs == "pixels":
            pictures = self._decode(self.state)
            return pictures if len(pictures) > 1 else next(iter(pictures.values()))
        return self.model.dynamics.features(self.state)[0].float().cpu().numpy()

    @torch.no_grad()
    def _decode(self, state: State) -> dict[str, np.ndarray]:
        with autocast(self.agent.device, self.agent.precision):
            decoded = self.model.decode(self.model.dynamics.features(state)[None])
            return {k: to_pixels(v)[0, 0].cpu().numpy() for k, v in decoded.items()}

    def _encode_action(self, action: Any) -> np.ndarray:
        """The action as the model's vector (A,)."""
        space = self.run.action_space
        if not space.discrete:
            value = np.asarray(action, np.float32)
            if value.shape != (space.size,) or not np.isfinite(value).all():
                raise UsageError(
                    f"DreamEnv: an action is {space.size} finite numbers, not {action!r}"
                )
            return value.clip(-1, 1)
        if not self.action_space.contains(action):
            raise UsageError(f"DreamEnv: {action!r} is not in {self.action_space}")
        return space.one_hot([torch.tensor(int(pick)) for pick in np.atleast_1d(action)]).numpy()

    def _make_first_row(self, obs: Any) -> dict[str, np.ndarray]:
        """One row with a given first observation of an episode."""
        seen = check_seen(self.run.observation_space, obs)
        return {**{k: v[None] for k, v in seen.items()}, "prev_action": self._no_action()}

    def _sample_replay(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The context rows before a random step of the replay, and which step that is."""
        try:
            self._saved = self._saved or SavedEpisodes(self.run.path)
            if not self._saved.count:
                raise UsageError("it holds no episode")
            episode = int(self.np_random.integers(self._saved.count))
            rows = self._saved.read_episode(episode)
        except (UsageError, ReplayError, OSError) as error:
            raise RunError(
                f"{self.run.path}: no start in its replay ({error}); give "
                f"reset(options={{'obs': ...}})",
                4,
            ) from None
        step = int(
            self.np_random.integers(max(1, len(rows["is_last"]) - int(rows["is_last"][-1])))
        )
        seen = slice(max(0, step + 1 - self.context), step + 1)
        return {k: v[seen] for k, v in rows.items()}, {"episode": episode, "step": step}

    def _no_action(self) -> np.ndarray:
        return np.zeros((1, self.run.action_space.size), np.float32)


def _check_choice(name: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise UsageError(
            f"DreamEnv: {name} must be {' or '.join(map(repr, allowed))}, not {value!r}"
        )
