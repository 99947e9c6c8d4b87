"""New rows more often than old ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from worldmodel.config.ranges import Range, Share
from worldmodel.replay.samplers import Sampler, draw_by_weight
from worldmodel.replay.segments import StartIndex


@dataclass(frozen=True)
class Settings:
    section = "replay"

    recent_share: Share
    recent_power: Annotated[float, Range(0, 10)]


class Recent(Sampler):
    """A share of the sequences is drawn with a probability that falls as age^-power, the rest
    uniformly.

    This is DreamerV3's mixture of the selectors recency (with power 1) and uniform. The newest
    start has age 1; a start that lies n rows before it has age n + 1. Streams grow alike, so that
    equal rows of several streams are equally old. DreamerV3 stretches ages over the capacity
    while the ring fills; here an age always is a number of agent steps.
    """

    settings: Settings

    def __call__(
        self, index: StartIndex, batch: int, generator: np.random.Generator
    ) -> np.ndarray:
        rows = index.rows()
        age = (rows.max() + 1 - rows).astype(np.float64)
        by_age = draw_by_weight(age**-self.settings.recent_power, batch, generator)
        uniform = generator.integers(len(index), size=batch)
        return np.where(generator.random(batch) < self.settings.recent_share, by_age, uniform)
