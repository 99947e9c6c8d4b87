"""Scores of several runs as one number with an interval, as Agarwal et al. 2021 ("rliable")
compute them.

Runs of one task are a stratum (N,); a bootstrap draws as many runs again from each, independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Strata = Sequence[np.ndarray]
LEVELS = (2.5, 97.5)
DRAWS = 10_000


def mean(strata: Strata) -> np.ndarray:
    """The mean over tasks of the mean over runs: leaves (...,N) to (...)."""
    return np.mean([x.mean(-1) for x in strata], 0)


def median(strata: Strata) -> np.ndarray:
    """The median over tasks of the mean over runs."""
    return np.median([x.mean(-1) for x in strata], 0)


def iqm(strata: Strata) -> np.ndarray:
    """The interquartile mean: over the middle half of all runs of all tasks, so that no odd one
    counts.
    """
    scores = np.sort(np.concatenate(strata, -1), -1)
    cut = scores.shape[-1] // 4
    return scores[..., cut : scores.shape[-1] - cut].mean(-1)


AGGREGATES: dict[str, Callable[[Strata], np.ndarray]] = {
    "mean": mean,
    "median": median,
    "iqm": iqm,
}


def resampled(strata: Strata, seed: int = 0, draws: int = DRAWS) -> list[np.ndarray]:
    """As many runs of each task, drawn with replacement: (draws,N)."""
    rng = np.random.default_rng(seed)
    return [x[rng.integers(0, len(x), (draws, len(x)))] for x in strata]


def estimates(strata: Strata, seed: int = 0, draws: int = DRAWS) -> dict[str, dict[str, float]]:
    """Mean, median and IQM, each with a 95 % percentile interval of the stratified bootstrap."""
    again = resampled(strata, seed, draws)
    found = {}
    for name, aggregate in AGGREGATES.items():
        low, high = np.percentile(aggregate(again), LEVELS)
        found[name] = {"value": float(aggregate(strata)), "low": float(low), "high": float(high)}
    return found


def profile(
    strata: Strata, levels: np.ndarray, seed: int = 0, draws: int = 2000
) -> dict[str, np.ndarray]:
    """The performance profile: the share of runs above each level (L,), with a 95 % interval."""

    def shares(scores: np.ndarray) -> np.ndarray:
        return np.stack([(scores > level).mean(-1) for level in levels], -1)

    low, high = np.percentile(
        shares(np.concatenate(resampled(strata, seed, draws), -1)), LEVELS, 0
    )
    return {"share": shares(np.concatenate(strata)), "low": low, "high": high}
