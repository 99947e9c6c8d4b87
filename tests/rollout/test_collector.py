"""The collector against scripted environments: rows, counters, scores and numbers of episodes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from worldmodel.rollout.collector import Rollout, check_natural
from worldmodel.spaces import ActionSpace

LENGTH = 3  # steps of an episode after its first row


@dataclass
class Result:
    obs: dict[str, np.ndarray]
    reward: float = 0.0
    is_first: bool = False
    is_last: bool = False
    is_terminal: bool = False
    frames: int = 2
    fault: bool = False
    info: dict[str, Any] = field(default_factory=dict)


class Scripted:
    """Two environments that show seed, step and the sum of actions, and pay the action."""

    num_envs = 2

    def __init__(self):
        self.at, self.begun, self.resets = {}, {}, []

    def reset(self, i, seed):
        self.resets.append((i, seed))
        self.at[i] = [seed, 0, 0.0]
        return Result({"x": np.array(self.at[i], np.float32)}, is_first=True, frames=0)

    def step(self, i, action):
        self.at[i][1] += 1
        self.at[i][2] += float(action[0])
        last = self.at[i][1] == LENGTH
        won = {"success": self.at[i][1] == 2} if i == 0 else {}
        obs = {"x": np.array(self.at[i], np.float32)}
        return Result(obs, float(action[0]), is_last=last, is_terminal=last and i == 1, info=won)

    def begin_reset(self, i, seed):
        self.begun[i] = self.reset(i, seed)

    def begin_step(self, i, action):
        self.begun[i] = self.step(i, action)

    def finish(self):
        return self.begun


def make():
    envs = Scripted()
    return envs, Rollout(envs, ActionSpace(1), lambda i, episode: 100 * i + episode)


def act(rows):
    """The number of the step, and ten times that."""
    step = rows[0]["x"][1] + 1
    return np.array([[step], [10 * step]], np.float32)


def test_rows_scores_and_counters_by_hand():
    envs, rollout = make()
    rows = [rollout.step(act) for _ in range(2 * (LENGTH + 1))]
    assert envs.resets == [(0, 0), (1, 100), (0, 1), (1, 101)]
    first = [row[0] for row in rows]
    assert [row["prev_action"].tolist() for row in first] == [[0], [1], [2], [3]] * 2
    assert [float(row["reward"]) for row in first] == [0, 1, 2, 3] * 2
    assert [row["is_first"] for row in first] == [True, False, False, False] * 2
    assert [row["is_last"] for row in first] == [False, False, False, True] * 2
    assert [row[1]["is_terminal"] for row in rows] == [False, False, False, True] * 2
    assert rollout.steps == 2 * 2 * LENGTH and rollout.frames == 2 * rollout.steps
    done = rollout.pop_finished()
    assert [(e.number, e.seed, e.score, len(e.actions)) for e in done] == [
        (0, 0, 6.0, 3),
        (0, 100, 60.0, 3),
        (1, 1, 6.0, 3),
        (1, 101, 60.0, 3),
    ]
    assert [e.success for e in done] == [True, None] * 2 and rollout.pop_finished() == []


def test_a_late_rollout_starts_at_the_episode_it_is_told():
    envs, rollout = make()
    rollout.start_at_episode(7)
    rollout.step(act)
    assert envs.resets == [(0, 7), (1, 107)] and [e.number for e in rollout.episodes] == [7, 7]


@pytest.mark.parametrize("steps", [2, LENGTH + 1, LENGTH + 3])
def test_a_rollout_goes_on_from_what_it_saved(steps):
    _, unbroken = make()
    for _ in range(steps):
        unbroken.step(act)
    _, again = make()
    again.load_state_dict(unbroken.state_dict())
    for _ in range(LENGTH + 2):
        for one, two in zip(unbroken.step(act), again.step(act), strict=True):
            assert {k: np.asarray(v).tolist() for k, v in one.items()} == {
                k: np.asarray(v).tolist() for k, v in two.items()
            }
    assert again.steps == unbroken.steps and again.frames == unbroken.frames


@pytest.mark.parametrize("value", [-1, 5, 2.0, True, None])
def test_numbers_of_a_checkpoint_are_whole_and_within_bounds(value):
    assert check_natural(4, below=5) == 4 and check_natural(0) == 0
    with pytest.raises(ValueError, match="is not a whole number below 5"):
        check_natural(value, below=5)
