"""`Dream`: imagined episodes side by side, which both environments are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldmodel.errors import RunError, UsageError
from worldmodel.kernels.picture_decoder import PackedDecoder
from worldmodel.model.mean_image import to_pixels
from worldmodel.replay.buffer import ReplayError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.saved_run import Run, check_observation
from worldmodel.spaces import Columns, State, map_state, select_states
from worldmodel.system.runtime import autocast

OBSERVED = ("pixels", "features")
ENDS = ("sampled", "threshold")
OLD_ENDS = {"drawn": "sampled"}  # names of before
KEPT_BYTES = 1 << 30  # of the replay in memory, so that a restart reads no file


@dataclass(frozen=True)
class Start:
    """The rows (T,...) that a dream starts after, and where they are from."""

    rows: Columns
    info: dict[str, Any]
    seed: int


class Dream:
    """Imagines one step of several episodes at once; their states (B,...) are its only memory."""

    def __init__(
        self, run: Run | str | Path, obs: str, horizon: int, context: int, ends: str, device: str
    ):
        check_choice("obs", obs, OBSERVED)
        ends = OLD_ENDS.get(ends, ends)
        check_choice("ends", ends, ENDS)
        check_count("horizon", horizon)
        check_count("context", context)
        self.run = run if isinstance(run, Run) else Run.open(run, device)
        self.model, self.agent = self.run.model, self.run.agent
        if not self.model.dynamics.imagines:
            name = self.run.config.model.dynamics
            raise UsageError(f"DreamEnv: {self.run.path} has no model (model.dynamics {name})")
        self.obs, self.horizon, self.context, self.ends = obs, horizon, context, ends
        if obs == "pixels":
            self.check_drawing()
        self.observation_space = self._make_observation_space()
        self.action_space = self._make_action_space()
        self.generator = torch.Generator(self.agent.device)
        self.states: State | None = None
        self._saved: SavedEpisodes | None = None

    def check_drawing(self) -> None:
        """UsageError unless the model makes pictures."""
        if not (self.model.can_draw and self.run.observation_space.pictures):
            raise UsageError(
                "DreamEnv: this model cannot draw; use obs='features' and no render_mode"
            )

    def describe(self) -> str:
        """The arguments, for a repr."""
        return (
            f"{str(self.run.path)!r}, obs={self.obs!r}, horizon={self.horizon}, "
            f"context={self.context}, ends={self.ends!r}"
        )

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

    # ---- starts

    def take_first_rows(self, obs: Any, count: int) -> list[Columns]:
        """The first row of `count` episodes, of a batch of observations or of one for all."""
        seen, is_batch = check_observation(self.run.observation_space, obs)
        given = len(next(iter(seen.values())))
        if is_batch and given != count:
            raise UsageError(f"DreamEnv: {count} episodes cannot start from {given} observations")
        action = np.zeros((1, self.run.action_space.size), np.float32)
        return [
            {**{k: v[i % given][None] for k, v in seen.items()}, "prev_action": action}
            for i in range(count)
        ]

    def sample_start(self, rng: np.random.Generator) -> Start:
        """The context rows before a random step of the replay."""
        seed = draw_seed(rng)
        try:
            self._saved = self._saved or SavedEpisodes(self.run.path, KEPT_BYTES)
            if not self._saved.count:
                raise UsageError("it holds no episode")
            episode = int(rng.integers(self._saved.count))
            rows = self._saved.read_episode(episode)
        except (UsageError, ReplayError, OSError) as error:
            raise RunError(
                f"{self.run.path}: no start in its replay ({error}); give "
                f"reset(options={{'obs': ...}})",
                4,
            ) from None
        step = int(rng.integers(max(1, len(rows["is_last"]) - int(rows["is_last"][-1]))))
        seen = slice(max(0, step + 1 - self.context), step + 1)
        keys = [*self.model.observation, "prev_action"]
        return Start({k: rows[k][seen] for k in keys}, {"episode": episode, "step": step}, seed)

    def begin(self, starts: Sequence[Columns], where: np.ndarray | None = None) -> None:
        """Start all episodes, or those at the indices `where`, after these rows.

        Of an ensemble of transitions one member imagines an episode to its end.
        """
        fresh = self.agent.observe_starts(starts, self.generator)
        fresh = self.model.dynamics.keep_members(fresh, self.generator)
        fresh = map_state(fresh, Tensor.float)
        if where is None or self.states is None:
            self.states = fresh
            return
        index = torch.as_tensor(where, device=self.agent.device)
        self.states = {k: v.index_copy(0, index, fresh[k]) for k, v in self.states.items()}

    # ---- steps

    @torch.no_grad()
    def advance(self, actions: Any) -> tuple[np.ndarray, np.ndarray]:
        """Imagine a step of actions (B,...); expected rewards and continuations (B,)."""
        assert self.states is not None
        vectors = self.run.action_space.encode_actions(np.asarray(actions)).to(self.agent.device)
        with autocast(self.agent.device, self.agent.precision):
            found = self.model.dynamics.imagine_step(self.states, vectors, self.generator)
            self.states = {k: found[k].float() for k in self.states}
            feat = self.model.dynamics.features(self.states)
            reward, cont = self.model.predict_for_planning(feat)
        return to_numpy(reward), to_numpy(cont)

    def observe(self, where: np.ndarray | None = None) -> Any:
        """What is observed of all episodes, or those at the indices `where`: (B,...).

        It is a picture, a dict of several, or features.
        """
        if self.obs == "pixels":
            pictures = self.draw(where)
            return pictures if len(pictures) > 1 else next(iter(pictures.values()))
        return to_numpy(self.model.dynamics.features(self._select(where)))

    @torch.no_grad()
    def draw(self, where: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Pictures (B,H,W,C) uint8 by name."""
        with autocast(self.agent.device, self.agent.precision):
            feat = self.model.dynamics.features(self._select(where))
            if len(feat) > 1 and self._packed_decoders:
                packed = self._packed_decoders.items()
                return {k: v.decode_pixels(feat).numpy() for k, v in packed}
            decoded = self.model.decode(feat[None])
            return {k: to_pixels(v)[0].cpu().numpy() for k, v in decoded.items()}

    @cached_property
    def _packed_decoders(self) -> dict[str, PackedDecoder] | None:
        """What draws a batch faster in fp32; a single picture stays bit for bit the model's."""
        return self.model.pack_decoders() if self.agent.precision == "fp32" else None

    def _select(self, where: np.ndarray | None) -> State:
        assert self.states is not None
        return self.states if where is None else select_states(self.states, where)


def draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))


def to_numpy(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def check_choice(name: str, value: Any, allowed: tuple) -> None:
    """UsageError unless an argument is one of a few values."""
    if value not in allowed:
        raise UsageError(
            f"DreamEnv: {name} must be {' or '.join(map(repr, allowed))}, not {value!r}"
        )


def check_seed(seed: Any) -> int:
    """A seed as Python's integer, which Gymnasium wants; UsageError if it is no whole number."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise UsageError(f"DreamEnv: a seed must be a whole number of at least 0, not {seed!r}")
    return int(seed)


def check_count(name: str, value: Any) -> None:
    """UsageError unless an argument is a whole number above zero."""
    if not isinstance(value, int) or value < 1:
        raise UsageError(f"DreamEnv: {name} must be a whole number of at least 1, not {value!r}")
