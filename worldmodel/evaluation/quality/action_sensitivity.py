"""Whether other actions change the dream as they change the world: pairs of plans from one and the
same state.
"""

from __future__ import annotations

import numpy as np

from worldmodel.errors import UsageError
from worldmodel.evaluation.quality.prediction_metrics import pearson


def measure_sensitivity(
    found: np.ndarray, truth: np.ndarray, seen: np.ndarray
) -> dict[str, np.ndarray]:
    """By horizon (P,), from pictures (S,M,P,...) of M plans from S states, of which `seen` (S,M,P)
    were reached.

    Plans 0 and 1 are a pair, 2 and 3 another. `agreement` correlates the differences of the
    pictures, dreamt and true: 1 is right, 0 says nothing about actions. `shuffled` compares with
    another pair's dream from the same state: what is left there is owed to the state, and to
    chance: `chance` is the standard deviation of `shuffled` around 0 where all differences point
    one way or the other and are of like size; where they can point in more ways it is less. `gain`
    is how large dreamt differences are along the true ones: 1 is right.
    """
    even = truth.shape[1] - truth.shape[1] % 2
    if even < 4:
        raise UsageError(
            f"actions cannot be shuffled among {even // 2} pair of plans; at least 2 are needed"
        )
    said, was = (x[:, 1:even:2].astype(np.float32) - x[:, :even:2] for x in (found, truth))
    both = seen[:, 1:even:2] & seen[:, :even:2]
    others = np.roll(said, 1, 1)
    rows: dict[str, list[float]] = {"agreement": [], "shuffled": [], "chance": [], "gain": []}
    for t in range(truth.shape[2]):
        there = both[:, :, t]
        right, real, wrong = (x[:, :, t][there] for x in (said, was, others))
        rows["agreement"].append(pearson(right, real))
        rows["shuffled"].append(pearson(wrong, real))
        # Of two pairs each is the other's other: one product of differences, counted twice.
        independent = int(there.any(1).sum() if even == 4 else there.sum())
        rows["chance"].append(independent**-0.5 if independent else float("nan"))
        energy = float(np.square(real, dtype=np.float64).sum())
        rows["gain"].append(
            float((right * real).sum(dtype=np.float64)) / energy if energy > 0 else float("nan")
        )
    return {k: np.array(v) for k, v in rows.items()}
