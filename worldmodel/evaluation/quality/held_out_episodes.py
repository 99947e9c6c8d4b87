"""Episodes to measure a model on, and a simulator that tries other actions from their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.checkpoint import store
from worldmodel.errors import RunError, UsageError
from worldmodel.evaluation.quality.evaluated_model import Columns
from worldmodel.replay.buffer import ReplayError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.collector import Rollout, VectorEnv
from worldmodel.rollout.montage import join_row
from worldmodel.rollout.player import Player
from worldmodel.run_directory import RunDir
from worldmodel.saved_run import read_spaces
from worldmodel.spaces import ActionSpace, ObservationSpace, find_vectors


@dataclass
class RecordedEpisode:
    """An episode; the vectors among its columns are the simulator's state.

    The seed, if known, lets the simulator play it again.
    """

    columns: Columns
    seed: int | None = None

    @cached_property
    def pictures(self) -> np.ndarray | None:
        """The observed pictures side by side (T,H,W,3) uint8."""
        return join_row(self.columns)

    @cached_property
    def state(self) -> np.ndarray | None:
        """The simulator's state (T,n): the vector of that name, or all vectors."""
        vectors = find_vectors(self.columns)
        return np.concatenate(list(vectors.values()), 1) if vectors else None

    def __len__(self) -> int:
        return len(self.columns["reward"])


@dataclass
class Branch:
    """The simulator's response to a plan of P actions.

    `seen` (P,) marks the steps that happened. `counted` also marks the steps after a termination,
    which have no reward. Pictures (P,H,W,3) uint8 are black at steps that did not happen.
    """

    reward: np.ndarray
    seen: np.ndarray
    counted: np.ndarray
    pictures: np.ndarray | None


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


class Simulator:
    """The first environment, restored by seed and actions: episodes must depend on these only."""

    def __init__(self, envs: VectorEnv, to_env: Callable[[np.ndarray], Any]):
        self.envs, self.to_env = envs, to_env

    def restore(self, seed: int, actions: Iterable[np.ndarray]) -> Any | None:
        """Replay actions (A,) from a seed; None if the episode ends before the last one."""
        result = self.envs.reset(0, seed)
        for action in actions:
            if result.is_last:
                return None
            result = self.act(action)
        return result

    def act(self, action: np.ndarray) -> Any:
        """The result of one action (A,)."""
        return self.envs.step(0, self.to_env(action))

    def simulate_plan(
        self, episode: RecordedEpisode, step: int, plan: np.ndarray
    ) -> Branch | None:
        """Restore a step of an episode and execute a plan (P,A); None if it does not reproduce."""
        actions = iter(plan)
        return self.simulate_policy(episode, step, len(plan), lambda row: next(actions))

    def simulate_policy(
        self,
        episode: RecordedEpisode,
        step: int,
        length: int,
        choose: Callable[[dict[str, Any] | None], np.ndarray],
    ) -> Branch | None:
        """The same for actions (A,) that `choose` picks from the row before (None at first)."""
        assert episode.seed is not None, (
            "only episodes that were played here can be simulated again"
        )
        columns = episode.columns
        result = self.restore(episode.seed, columns["prev_action"][1 : step + 1])
        if result is None or result.is_last:
            return None
        if any(not np.array_equal(v, columns[k][step]) for k, v in result.obs.items()):
            return None
        picture = join_row(result.obs)
        pictures = np.zeros((length, *picture.shape), np.uint8) if picture is not None else None
        found = Branch(np.zeros(length), np.zeros(length, bool), np.zeros(length, bool), pictures)
        row = None
        for t in range(length):
            action = choose(row)
            result = self.act(action)
            if "fault" in result.info:
                break
            found.reward[t], found.seen[t], found.counted[t] = result.reward, True, True
            if found.pictures is not None:
                found.pictures[t] = join_row(result.obs)
            if result.is_last:
                found.counted[t + 1 :] = result.is_terminal
                break
            row = {
                **result.obs,
                "prev_action": action,
                "reward": np.float32(result.reward),
                "is_first": False,
                "is_last": False,
                "is_terminal": False,
            }
        return found
