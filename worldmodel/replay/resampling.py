"""The bootstrap of an ensemble: how often each replayed row counts for each member.

A bootstrap sample draws as many units from the data as there are, with replacement, so that each
unit is drawn Poisson(1) times, nearly. The units are blocks of consecutive rows of one stream, not
episodes, which may be few and are learned from before they are over. A block's counts follow from
the run's seed and its place alone: no column of the replay holds them, and a resumed run finds the
same ones.
"""

from __future__ import annotations

import numpy as np


def count_resamples(
    streams: np.ndarray, rows: np.ndarray, length: int, members: int, entropy: tuple[int, ...]
) -> np.ndarray:
    """Counts (B,T,K) of the sequences of `length` rows that start at rows (B,) of streams (B,).

    A block has as many rows as a sequence, so that a sequence meets two blocks at most.
    """
    blocks = (rows[:, None] + np.arange(length)) // length
    found = np.empty((*blocks.shape, members), np.float32)
    for b, stream in enumerate(streams.tolist()):
        for block in np.unique(blocks[b]).tolist():
            generator = np.random.default_rng([*entropy, stream, block])
            found[b, blocks[b] == block] = generator.poisson(1.0, members)
    return found
