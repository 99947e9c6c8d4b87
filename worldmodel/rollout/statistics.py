"""Bootstrap intervals of scores and of their aggregates, after Agarwal et al. 2021 ("rliable").

The runs of one task are a stratum (N,). The bootstrap resamples each stratum independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Strata = Sequence[np.ndarray]
PERCENTILES = (2.5, 97.5)
RESAMPLES = 10_000
FEW = 5  # an interval over fewer episodes or starts comes with a warning


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


def estimate_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """`bootstrap_interval` of several values; NaN for a single one, whose spread is unknown."""
    return bootstrap_interval(values, seed) if len(values) > 1 else (float("nan"), float("nan"))


def warn_few_values(over: str, count: int) -> list[str]:
    """A line that warns of intervals over few values, which `over` names; none if there are
    enough.
    """
    return (
        [f"{over}: {'no intervals' if count == 1 else 'intervals over so few are unreliable'}"]
        if count < FEW
        else []
    )


def format_interval(low: float, high: float, count: int) -> str:
    """Format an interval; with a warning if it is over few values, and without bounds if
    over one.
    """
    if count < 2:
        return "no interval of one"
    return f"95 % interval {low:.1f} to {high:.1f}" + ", unreliable with so few" * (count < FEW)


def bootstrap_interval(
    scores: np.ndarray, seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(0, len(scores), (draws, len(scores)))].mean(1)
    low, high = np.percentile(means, PERCENTILES)
    return float(low), float(high)
