"""Aggregates of scores with bootstrap intervals, after Agarwal et al. 2021 ("rliable").

The runs of one task are a stratum (N,). The bootstrap resamples each stratum independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Strata = Sequence[np.ndarray]
PERCENTILES = (2.5, 97.5)
RESAMPLES = 10_000


def compute_mean(strata: Strata) -> np.ndarray:
    """The mean over tasks of the mean over runs: strata (...,N) -> (...)."""
    return np.mean([x.mean(-1) for x in strata], 0)


def compute_median(strata: Strata) -> np.ndarray:
    """The median over tasks of the mean over runs."""
    return np.median([x.mean(-1) for x in strata], 0)


def compute_iqm(strata: Strata) -> np.ndarray:
    """The interquartile mean over all runs of all tasks, which ignores outliers."""
    scores = np.sort(np.concatenate(strata, -1), -1)
    cut = scores.shape[-1] // 4
    return scores[..., cut : scores.shape[-1] - cut].mean(-1)


AGGREGATES: dict[str, Callable[[Strata], np.ndarray]] = {
    "mean": compute_mean,
    "median": compute_median,
    "iqm": compute_iqm,
}


def resample_runs(strata: Strata, seed: int = 0, draws: int = RESAMPLES) -> list[np.ndarray]:
    """Sample as many runs of each task with replacement: (draws,N)."""
    rng = np.random.default_rng(seed)
    return [x[rng.integers(0, len(x), (draws, len(x)))] for x in strata]


def estimate_aggregates(
    strata: Strata, seed: int = 0, draws: int = RESAMPLES
) -> dict[str, dict[str, float]]:
    """Mean, median and IQM, each with a 95 % percentile interval of the stratified bootstrap."""
    again = resample_runs(strata, seed, draws)
    found = {}
    for name, aggregate in AGGREGATES.items():
        low, high = np.percentile(aggregate(again), PERCENTILES)
        found[name] = {"value": float(aggregate(strata)), "low": float(low), "high": float(high)}
    return found


def compute_profile(
    strata: Strata, levels: np.ndarray, seed: int = 0, draws: int = 2000
) -> dict[str, np.ndarray]:
    """The performance profile: the share of runs above each level (L,) with a 95 % interval."""

    def shares(scores: np.ndarray) -> np.ndarray:
        return np.stack([(scores > level).mean(-1) for level in levels], -1)

    low, high = np.percentile(
        shares(np.concatenate(resample_runs(strata, seed, draws), -1)), PERCENTILES, 0
    )
    return {"share": shares(np.concatenate(strata)), "low": low, "high": high}
