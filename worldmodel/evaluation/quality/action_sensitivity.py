"""Action sensitivity: do actions change imagined rollouts as they change the world?"""

from __future__ import annotations

import numpy as np

from worldmodel.errors import UsageError
from worldmodel.evaluation.quality.prediction_metrics import pearson


def measure_sensitivity(
    found: np.ndarray, truth: np.ndarray, seen: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures by horizon (P,), from pictures (S,M,P,...) of M plans from S states.

    `seen` (S,M,P) marks the steps that the simulator reached. Plans 0 and 1 are a pair, 2 and 3
    another. `agreement` is the correlation between the imagined and the true difference within a
    pair: 1 is best, 0 means no sensitivity. `shuffled` correlates the true difference with the
    imagined one of another pair from the same state: what remains comes from the state or from
    chance. `chance` is the standard deviation of `shuffled` if all differences have one direction
    up to sign and equal size; with more directions it is smaller. `gain` is the size of imagined
    differences along the true ones: 1 is best.
    """
    even = truth.shape[1] - truth.shape[1] % 2
    if even < 4:
        raise UsageError(
            f"actions cannot be shuffled among {even // 2} pair of plans; at least 2 are needed"
        )
    imagined, actual = (x[:, 1:even:2].astype(np.float32) - x[:, :even:2] for x in (found, truth))
    both = seen[:, 1:even:2] & seen[:, :even:2]
    others = np.roll(imagined, 1, 1)
    rows: dict[str, list[float]] = {"agreement": [], "shuffled": [], "chance": [], "gain": []}
    for t in range(truth.shape[2]):
        there = both[:, :, t]
        right, real, wrong = (x[:, :, t][there] for x in (imagined, actual, others))
        rows["agreement"].append(pearson(right, real))
        rows["shuffled"].append(pearson(wrong, real))
        # With two pairs the shuffling swaps them: the two products are equal, so count one.
        independent = int(there.any(1).sum() if even == 4 else there.sum())
        rows["chance"].append(independent**-0.5 if independent else float("nan"))
        energy = float(np.square(real, dtype=np.float64).sum())
        rows["gain"].append(
            float((right * real).sum(dtype=np.float64)) / energy if energy > 0 else float("nan")
        )
    return {k: np.array(v) for k, v in rows.items()}
