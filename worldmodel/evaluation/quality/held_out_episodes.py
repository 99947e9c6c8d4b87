"""Episodes to measure a model on, and the simulator taken back to a step of one to try other
actions from there.
"""

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
    """An episode; the vectors among its columns are the simulator's state. The seed, where known,
    simulates it again.
    """

    columns: Columns
    seed: int | None = None

    @cached_property
    def pictures(self) -> np.ndarray | None:
        """What was seen (T,H,W,3) uint8, all pictures side by side."""
        return join_row(self.columns)

    @cached_property
    def state(self) -> np.ndarray | None:
        """The simulator's state (T,n): the vector of that name, else all there are."""
        vectors = find_vectors(self.columns)
        return np.concatenate(list(vectors.values()), 1) if vectors else None

    def __len__(self) -> int:
        return len(self.columns["reward"])


@dataclass
class Branch:
    """What the simulator answered to a plan of P actions.

    `seen` (P,) are the steps that happened; `counted` those and, where the episode ended for good,
    the ones after it, which earn nothing. Pictures (P,H,W,3) uint8, where there are any, are black
    when not seen.
    """

    reward: np.ndarray
    seen: np.ndarray
    counted: np.ndarray
    pictures: np.ndarray | None


def collect_episodes(
    rollout: Rollout, player: Player, count: int, on_step: Callable[[int], None]
) -> list[RecordedEpisode]:
    """Whole episodes of the first environment; `on_step` hears how many are done."""
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
    """The last episodes of a run's replay; RunError in one line where they can't be read."""
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
    """The last episodes of another run's replay; RunError in one line where its spaces are others
    than these.
    """
    run = RunDir(path)
    run.load_config()  # says what is wrong where this is no run
    states = store.read_all_states(run.checkpoints)
    if not states:
        raise RunError(
            f"--from {path}: it holds no checkpoint, by which its episodes are found", 4
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
    """Environment 0 of some environments; episodes must be a pure function of seed and actions."""

    def __init__(self, envs: VectorEnv, to_env: Callable[[np.ndarray], Any]):
        self.envs, self.to_env = envs, to_env

    def restore(self, seed: int, actions: Iterable[np.ndarray]) -> Any | None:
        """Where an episode is after these actions (A,); None where it ended before."""
        result = self.envs.reset(0, seed)
        for action in actions:
            if result.is_last:
                return None
            result = self.act(action)
        return result

    def act(self, action: np.ndarray) -> Any:
        """The answer to one action (A,) of an open episode."""
        return self.envs.step(0, self.to_env(action))

    def simulate_plan(
        self, episode: RecordedEpisode, step: int, plan: np.ndarray
    ) -> Branch | None:
        """Simulate an episode again up to a step, then act by a plan (P,A); None where it came out
        elsewhere.
        """
        actions = iter(plan)
        return self.simulate_policy(episode, step, len(plan), lambda row: next(actions))

    def simulate_policy(
        self,
        episode: RecordedEpisode,
        step: int,
        length: int,
        choose: Callable[[dict[str, Any] | None], np.ndarray],
    ) -> Branch | None:
        """The same for actions (A,) chosen one by one, by the row that answered to the last (None
        at first).
        """
        assert episode.seed is not None, (
            "the simulator comes back to episodes that were played here"
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
