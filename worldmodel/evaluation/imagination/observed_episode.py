"""An episode as an agent's model observes it: with the posterior at each of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.spaces import Row, State, select_states


@dataclass
class ObservedEpisode:
    """An episode with the posteriors (T,...) at its rows; rollouts start after `context` rows.

    `mean_picture` (H,W,3) in [0, 1] averages the episodes named by `mean_source`: it is the best
    constant prediction.
    """

    model: EvaluatedAgent
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
