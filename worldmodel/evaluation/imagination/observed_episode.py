"""An episode as a run's model observes it: with the posterior at each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import RunError, UsageError
from worldmodel.evaluation.quality.evaluated_model import EvaluatedRun
from worldmodel.evaluation.quality.held_out_episodes import RecordedEpisode, load_replay_episodes
from worldmodel.evaluation.quality.open_loop_error import MeanBaseline, select_states
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    make_first_available,
    record_episode,
)
from worldmodel.saved_run import Run
from worldmodel.spaces import Row, State
from worldmodel.system.console import Progress, say

MAX_ROWS = 2000  # rows of an episode: all of its pictures are decoded at once
MEAN_EPISODES = 20  # episodes of the replay that are averaged to the mean picture


@dataclass
class ObservedEpisode:
    """An episode with the posteriors (T,...) at its rows; rollouts start after `context` rows.

    `mean_picture` (H,W,3) in [0, 1] averages the episodes named by `mean_source`: it is the best
    constant prediction.
    """

    run: Run
    model: EvaluatedRun
    episode: RecordedEpisode
    posteriors: State
    source: str
    context: int
    mean_picture: Tensor
    mean_source: str

    @property
    def start(self) -> State:
        """The posterior state after the context (1,...)."""
        return select_states(self.posteriors, np.array([self.context - 1]))

    def true_pictures(self, steps: Any) -> np.ndarray:
        """Pictures at these rows (...,H,W,3) uint8."""
        assert self.episode.pictures is not None
        return self.episode.pictures[steps]

    def actions(self, begin: int, length: int) -> Tensor:
        """The recorded actions after row `begin - 1`: (1,length,A)."""
        return torch.from_numpy(self.episode.columns["prev_action"][begin : begin + length])[None]

    def rows(self, count: int) -> list[Row]:
        return [{k: v[t] for k, v in self.episode.columns.items()} for t in range(count)]

    def decode_pictures(self, states: State) -> np.ndarray:
        """Decode states (...,) to pictures (...,H,W,3) uint8."""
        return to_uint8(self.model.decode(states))


def to_uint8(pictures: Tensor) -> np.ndarray:
    return pictures.mul(255).round().byte().numpy()


def observe_episode(
    run: Run,
    make: Callable[..., Any],
    source: str,
    seed: int,
    context: int,
) -> ObservedEpisode:
    """Play an episode on new seeds, or take the replay's last one, and observe it.

    The replay is also the fallback if the environment cannot be made.
    """
    model = EvaluatedRun(run, seed)
    if not model.can_draw:
        raise UsageError(
            "this model cannot draw: train it on pictures (env.obs) with loss.probe or the "
            "objective reconstruction; ./wm eval RUN model works all the same"
        )
    envs, why = (
        make_first_available(make, [run.config.env.obs]) if source == "fresh" else (None, "")
    )
    if envs is None:
        say(
            f"the environment can't be made here ({why}): using the run's replay"
            if why
            else "using the run's replay"
        )
        [episode] = load_replay_episodes(run.path, 1)
        source = "replay"
    else:
        with envs:
            rollout, player = make_evaluation_rollout(run, envs, seed)
            bar = Progress(MAX_ROWS, "playing, at most")
            rows = record_episode(rollout, player, MAX_ROWS, bar.update)
            bar.update(MAX_ROWS, f"an episode of {len(rows)} rows")
            bar.close()
        episode = RecordedEpisode({k: np.stack([row[k] for row in rows]) for k in rows[0]})
    if len(episode) < context + 2:
        raise UsageError(
            f"--context: the episode ended after {len(episode)} rows; give fewer than "
            f"{len(episode) - 1}"
        )
    usual, usual_of = _load_mean_picture(run, episode)
    return ObservedEpisode(
        run, model, episode, model.observe(episode.columns)[0], source, context, usual, usual_of
    )


def _load_mean_picture(run: Run, episode: RecordedEpisode) -> tuple[Tensor, str]:
    """The mean picture of the replay's last episodes, or of this one if the replay is missing."""
    try:
        episodes = load_replay_episodes(run.path, MEAN_EPISODES)
        name = f"the replay's last {len(episodes)} episodes"
    except RunError:
        episodes, name = [episode], "the episode itself"
    picture = MeanBaseline.fit(episodes).picture
    assert picture is not None
    return picture, name
