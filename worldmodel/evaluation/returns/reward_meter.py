"""Returns of played episodes by a given reward, beside the environment's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.model.given_reward import GivenReward
from worldmodel.rollout.statistics import bootstrap_interval
from worldmodel.spaces import Row


class RewardMeter:
    """A policy for a rollout, which adds up a given reward of the observations that it is shown.

    Rows of B environments come in; an observation counts for the action that led to it.
    """

    def __init__(self, policy: Callable[[list[Row]], np.ndarray], reward: GivenReward):
        self.policy, self.reward = policy, reward
        self.returns: dict[tuple[int, int], float] = {}  # by number of the episode, environment
        self.numbers: dict[int, int] = {}  # of the episode that each environment is in

    def __call__(self, rows: list[Row]) -> np.ndarray:
        rewards = self.reward.rate(to_observations(rows), torch.Size([len(rows)])).tolist()
        for i, (row, reward) in enumerate(zip(rows, rewards, strict=True)):
            if row["is_first"]:
                self.numbers[i] = self.numbers.get(i, -1) + 1
            place = self.numbers[i], i
            self.returns[place] = self.returns.get(place, 0.0) + (not row["is_first"]) * reward
        return self.policy(rows)

    def summarize(self, episodes: int, seed: int) -> dict[str, Any]:
        """The returns of the first episodes over all environments, in their order, and the 95 %
        interval of their mean.
        """
        count = len(self.numbers)
        share = [len(range(i, episodes, count)) for i in range(count)]
        kept = [r for (number, i), r in sorted(self.returns.items()) if number < share[i]]
        low, high = bootstrap_interval(np.array(kept), seed)
        mean = float(np.mean(kept))
        about = {"name": self.reward.name, "returns": kept}
        return {**about, "mean": mean, "low": low, "high": high}


def to_observations(rows: list[Row]) -> dict[str, Tensor]:
    """The observations of rows as a given reward sees them: pictures in [0, 1], and vectors."""
    found = {}
    for name, value in rows[0].items():
        if np.ndim(value):
            stacked = torch.from_numpy(np.stack([row[name] for row in rows]))
            found[name] = stacked.float() / 255 if stacked.dtype == torch.uint8 else stacked
    found.pop("prev_action")
    return found
