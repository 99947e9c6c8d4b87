"""`DreamVectorEnv`: many dreams at once, as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldmodel.dreams.dream import Dream, check_choice, check_count, check_seed, draw_seed
from worldmodel.errors import UsageError
from worldmodel.rollout.montage import join_arrays
from worldmodel.saved_run import Run
from worldmodel.system.runtime import keep_freed_memory, mix_seeds

MODES = tuple(mode.value for mode in AutoresetMode)


class DreamVectorEnv(VectorEnv):
    """Episodes of `DreamEnv` side by side: the model imagines and draws all of them at once.

    Where row i starts in the replay is a function of its own seed, as in `DreamEnv(seed=i)`. The
    model draws its random numbers for all rows together, so what is imagined is a function of all
    seeds and actions. `reset(options={"obs": ...})` takes one observation for all rows or a batch.
    `autoreset_mode` is one of Gymnasium's three.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        run: Run | str | Path,
        num_envs: int = 1,
        obs: str = "pixels",
        horizon: int = 100,
        seed: int = 0,
        *,
        context: int = 5,
        ends: str = "sampled",
        device: str = "auto",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_choice("autoreset_mode", autoreset_mode, (*AutoresetMode, *MODES))
        check_count("num_envs", num_envs)
        keep_freed_memory()  # a batch of pictures is large: fresh memory would double its time
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.dream = Dream(run, obs, horizon, context, ends, device)
        if render_mode:
            self.dream.check_drawing()
        self.run, self.num_envs, self.render_mode = self.dream.run, num_envs, render_mode
        self.obs, self.horizon, self.context, self.ends = obs, horizon, context, self.dream.ends
        self.single_observation_space = self.dream.observation_space
        self.single_action_space = self.dream.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rngs: list[np.random.Generator] = []
        self.steps = np.zeros(num_envs, int)
        self.is_over = np.zeros(num_envs, bool)
        self._first: int | None = seed  # seed of the first reset without one

    def __repr__(self) -> str:
        return f"DreamVectorEnv({self.dream.describe()}, num_envs={self.num_envs})"

    __str__ = __repr__

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Restart all episodes, or those of `options["reset_mask"]` (B,).

        A seed is that of row 0, and the next rows have the next seeds; or it is one for each row.
        """
        seed, self._first = self._first if seed is None else seed, None
        options = options or {}
        where = np.flatnonzero(self._check_mask(options.get("reset_mask")))
        if seed is not None:
            self._seed_rows(seed, where)
        infos = self._restart(where, options.get("obs"), is_seeded=seed is not None)
        return self.dream.observe(), infos

    def _check_mask(self, mask: Any) -> np.ndarray:
        """The episodes (B,) to restart."""
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise UsageError(
                f"DreamVectorEnv: reset_mask must be {self.num_envs} truth values, at least one "
                f"of them True, not {mask!r}"
            )
        if self.dream.states is None and not mask.all():
            raise gymnasium.error.ResetNeeded(
                "DreamVectorEnv: the first reset starts all episodes; call it without reset_mask"
            )
        return mask

    def _seed_rows(self, seed: Any, where: np.ndarray) -> None:
        """Seed the generators of the rows `where`; None keeps a generator."""
        one = isinstance(seed, Integral) or not isinstance(seed, Sequence | np.ndarray)
        seeds = list(range(check_seed(seed), seed + self.num_envs)) if one else list(seed)
        if len(seeds) != self.num_envs:
            raise UsageError(f"DreamVectorEnv: {self.num_envs} rows need as many seeds: {seeds}")
        self.rngs = self.rngs or [seeding.np_random()[0] for _ in seeds]
        for i in where:
            if seeds[i] is not None:
                self.rngs[i] = seeding.np_random(check_seed(seeds[i]))[0]

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self.dream.states is None:
            raise gymnasium.error.ResetNeeded("DreamVectorEnv: call reset before step")
        if self.autoreset_mode == AutoresetMode.DISABLED and self.is_over.any():
            raise gymnasium.error.ResetNeeded(
                "DreamVectorEnv: some episodes are over; reset(options={'reset_mask': ...}) them"
            )
        runs = ~self.is_over  # the others restart in this step (NEXT_STEP)
        rewards, chances = self.dream.advance(actions)
        self.steps += 1
        terminated = runs & (chances <= self._sample_thresholds(runs))
        truncated = runs & (self.steps >= self.horizon)
        infos: dict[str, Any] = {"cont": chances, "_cont": runs}
        if not runs.all():
            infos |= self._restart(np.flatnonzero(~runs))
        self.is_over = terminated | truncated
        obs = self.dream.observe()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self.is_over.any():
            obs, infos = self._replace_finished(obs, infos)
        return obs, np.where(runs, rewards, 0.0), terminated, truncated, infos

    def _sample_thresholds(self, runs: np.ndarray) -> np.ndarray:
        """The probabilities (B,) of continuing at which an episode ends."""
        thresholds = np.full(self.num_envs, 0.5)
        if self.ends == "sampled":
            for i in np.flatnonzero(runs):
                thresholds[i] = self.rngs[i].random()
        return thresholds

    def _replace_finished(self, obs: Any, infos: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Restart what is over within this step; the last observations move to the infos."""
        over, where = self.is_over.copy(), np.flatnonzero(self.is_over)
        final = np.full(self.num_envs, None, object)
        for i in where:
            final[i] = (
                {k: v[i].copy() for k, v in obs.items()}
                if isinstance(obs, dict)
                else (obs[i].copy())
            )
        infos = {
            "cont": infos["cont"],
            "_cont": infos["_cont"] & ~over,
            "final_obs": final,
            "_final_obs": over,
            "final_info": {"cont": infos["cont"], "_cont": over},
            "_final_info": over,
            **self._restart(where),
        }
        fresh = self.dream.observe(where)
        for old, new in (
            [(obs[k], fresh[k]) for k in obs] if isinstance(obs, dict) else [(obs, fresh)]
        ):
            old[where] = new
        return obs, infos

    def _restart(
        self, where: np.ndarray, obs: Any = None, is_seeded: bool = False
    ) -> dict[str, Any]:
        """Begin new episodes in the rows `where`; the infos say where in the replay."""
        infos: dict[str, Any] = {}
        if obs is None:
            starts = [self.dream.sample_start(self.rngs[i]) for i in where]
            rows, seeds = [start.rows for start in starts], [start.seed for start in starts]
            for key in ("episode", "step"):
                found = np.zeros(self.num_envs, int)
                found[where] = [start.info[key] for start in starts]
                mask = np.zeros(self.num_envs, bool)
                mask[where] = True
                infos |= {key: found, f"_{key}": mask}
        else:
            given = self.dream.take_first_rows(obs, self.num_envs)
            rows, seeds = [given[i] for i in where], [draw_seed(self.rngs[i]) for i in where]
        if is_seeded:
            self.dream.generator.manual_seed(mix_seeds(*seeds))
        self.dream.begin(rows, None if len(where) == self.num_envs else where)
        self.steps[where], self.is_over[where] = 0, False
        return infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The imagined pictures, if `render_mode` is rgb_array."""
        if self.render_mode is None:
            return None
        if self.dream.states is None:
            raise gymnasium.error.ResetNeeded("DreamVectorEnv: call reset before render")
        return tuple(join_arrays(self.dream.draw()))
