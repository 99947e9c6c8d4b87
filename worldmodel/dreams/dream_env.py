"""`DreamEnv`: a saved world model as a `gymnasium.Env` that needs no simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from worldmodel.dreams.dream import Dream, check_choice, check_seed, draw_seed
from worldmodel.rollout.montage import join_arrays
from worldmodel.saved_run import Run


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
        ends: str = "sampled",
        device: str = "auto",
        render_mode: str | None = None,
    ):
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        self.dream = Dream(run, obs, horizon, context, ends, device)
        if render_mode:
            self.dream.check_drawing()
        self.run, self.model = self.dream.run, self.dream.model
        self.obs, self.horizon, self.context, self.ends = obs, horizon, context, self.dream.ends
        self.render_mode = render_mode
        self.observation_space = self.dream.observation_space
        self.action_space = self.dream.action_space
        self.steps = 0
        self._first: int | None = seed  # seed of the first reset without one

    def __repr__(self) -> str:
        return f"DreamEnv({self.dream.describe()})"

    __str__ = __repr__

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[Any, dict[str, Any]]:
        seed, self._first = self._first if seed is None else seed, None
        super().reset(seed=None if seed is None else check_seed(seed))
        info: dict[str, Any] = {}
        if options and "obs" in options:
            (rows,) = self.dream.take_first_rows(options["obs"], 1)
            start_seed = draw_seed(self.np_random)
        else:
            start = self.dream.sample_start(self.np_random)
            rows, info, start_seed = start.rows, start.info, start.seed
        self.dream.generator.manual_seed(start_seed)
        self.dream.begin([rows])
        self.steps = 0
        return self._observe(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.dream.states is None:
            raise gymnasium.error.ResetNeeded("DreamEnv: call reset before step")
        reward, cont = self.dream.advance(np.asarray(action)[None])
        self.steps += 1
        threshold = self.np_random.random() if self.ends == "sampled" else 0.5
        chance = float(cont[0])
        return (
            self._observe(),
            float(reward[0]),
            chance <= threshold,
            self.steps >= self.horizon,
            {"cont": chance},
        )

    def render(self) -> np.ndarray | None:
        """The imagined picture, if `render_mode` is rgb_array."""
        if self.render_mode is None:
            return None
        if self.dream.states is None:
            raise gymnasium.error.ResetNeeded("DreamEnv: call reset before render")
        return join_arrays({k: v[0] for k, v in self.dream.draw().items()})

    def _observe(self) -> Any:
        seen = self.dream.observe()
        return {k: v[0] for k, v in seen.items()} if isinstance(seen, dict) else seen[0]
