"""Where the observed episode comes from: played on new seeds, or read from the run's replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from worldmodel.config.component_settings import states_fact
from worldmodel.errors import RunError, UsageError
from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.held_out_episodes import load_replay_episodes
from worldmodel.evaluation.quality.open_loop_error import MeanBaseline
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    make_first_available,
    record_episode,
)
from worldmodel.registry import DYNAMICS
from worldmodel.saved_run import Run
from worldmodel.system.console import PROGRAM, Progress, say

MAX_ROWS = 2000  # rows of an episode: all of its pictures are decoded at once
MEAN_EPISODES = 20  # episodes of the replay that are averaged to the mean picture


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
    model = EvaluatedAgent(run.agent, seed)
    if not model.can_draw:
        raise UsageError(
            f"this model cannot draw: {_explain_no_pictures(run.config.model.dynamics)}; "
            f"{PROGRAM} eval RUN model works all the same"
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
    posteriors, _ = model.observe(episode.columns)
    return ObservedEpisode(model, episode, posteriors, source, context, usual, usual_of)


def _explain_no_pictures(dynamics: str) -> str:
    """What to change for pictures, or that this kind of dynamics has none."""
    if states_fact(DYNAMICS[dynamics], "encodes_nothing"):
        return f"model.dynamics {dynamics} predicts no pictures"
    return "train it on pictures (env.obs) with loss.probe or the objective reconstruction"


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
