"""Where the episodes to measure a model on come from: played anew, or read from a replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.checkpoint import store
from worldmodel.checkpoint.saved_spaces import read_spaces
from worldmodel.errors import RunError, UsageError
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.replay.buffer import ReplayError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.collector import Rollout
from worldmodel.rollout.player import Player
from worldmodel.run_directory import RunDir
from worldmodel.spaces import ActionSpace, ObservationSpace


def collect_episodes(
    rollout: Rollout, player: Player, count: int, on_step: Callable[[int], None]
) -> list[RecordedEpisode]:
    """Play whole episodes of the first environment; `on_step` gets the number of finished ones."""
    found: list[RecordedEpisode] = []
    rows: list[dict[str, Any]] = []
    while len(found) < count:
        seed = rollout.episodes[0].seed
        rows.append(rollout.step(player)[0])
        if rows[-1]["is_last"]:
            found.append(
                RecordedEpisode({k: np.stack([row[k] for row in rows]) for k in rows[0]}, seed)
            )
            rows = []
        on_step(len(found))
    return found


def load_replay_episodes(run: Path, count: int) -> list[RecordedEpisode]:
    """The last episodes of a run's replay; RunError if they cannot be read."""
    try:
        saved = SavedEpisodes(run)
        numbers = range(max(0, saved.count - count), saved.count)
        found = [RecordedEpisode(saved.read_episode(number)) for number in numbers]
    except (UsageError, ReplayError, OSError) as error:
        raise RunError(f"the replay of this run cannot be read: {error}", 4) from None
    if not found:
        raise RunError(f"the replay of {run} holds no episode", 4)
    return found


def load_other_episodes(
    path: Path, observation: ObservationSpace, action: ActionSpace, count: int
) -> list[RecordedEpisode]:
    """The last episodes of another run's replay; RunError if its spaces differ from these."""
    run = RunDir(path)
    run.load_config()  # fails with a message if this is no run
    states = store.read_all_states(run.checkpoints)
    if not states:
        raise RunError(
            f"--from {path}: it has no checkpoint, which is needed to read its episodes", 4
        )
    with store.report_incompatible(run.checkpoints):
        seen, done = read_spaces(states[-1])
    for key, wanted in observation.items():
        found = seen.get(key)
        if found != wanted:
            raise RunError(
                f"--from {path}: its {key} has shape {found}, this run sees {wanted}; "
                "give a run of the same env.size, env.obs and task",
                2,
            )
    if done != action:
        raise RunError(
            f"--from {path}: its actions are {_describe_actions(done)}, this run does "
            f"{_describe_actions(action)}; give a run of the same task",
            2,
        )
    return load_replay_episodes(path, count)


def _describe_actions(space: ActionSpace) -> str:
    if not space.discrete:
        return f"{space.size} numbers"
    return f"{' and '.join(map(str, space.groups))} choices"
