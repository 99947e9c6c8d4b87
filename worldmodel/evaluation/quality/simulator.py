"""A simulator that tries other actions from the steps of recorded episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.rollout.collector import VectorEnv
from worldmodel.rollout.montage import join_row


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
            if result.fault:
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
