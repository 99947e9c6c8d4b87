"""Every start with the same probability."""

from __future__ import annotations

import numpy as np

from worldmodel.replay.samplers import Sampler
from worldmodel.replay.segments import StartIndex


class Uniform(Sampler):
    """Starts are uniform over all rows that allow one."""

    def __call__(
        self, index: StartIndex, batch: int, generator: np.random.Generator
    ) -> np.ndarray:
        return generator.integers(len(index), size=batch)
