"""Metrics of predictions: correlations, and the calibration of probabilities."""

from __future__ import annotations

import numpy as np

BINS = 10


def pearson(found: np.ndarray, truth: np.ndarray) -> float:
    """Correlation; NaN below 3 values or for a constant truth, 0 for a constant prediction."""
    x, y = (np.asarray(a, np.float64).ravel() for a in (found, truth))
    if len(y) < 3 or not np.ptp(y) > 0:
        return float("nan")
    if not np.ptp(x) > 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(found: np.ndarray, truth: np.ndarray) -> float:
    """Rank correlation; equal values share their mean rank."""
    return pearson(rank_values(found), rank_values(truth))


def rank_values(x: np.ndarray) -> np.ndarray:
    """Ranks from 1 for the smallest; equal values get their mean rank."""
    _, group, count = np.unique(np.asarray(x).ravel(), return_inverse=True, return_counts=True)
    last = count.cumsum()
    return (last - (count - 1) / 2)[group]


def brier_score(probability: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared error of a probability: 0 is best; always predicting 0.5 scores 0.25."""
    return float(np.square(np.asarray(probability, np.float64) - happened).mean())


def compute_reliability(
    probability: np.ndarray, happened: np.ndarray, bins: int = BINS
) -> dict[str, list]:
    """For each bin of predicted probability: count, mean prediction, observed frequency."""
    probability, happened = (
        np.asarray(probability, np.float64).ravel(),
        np.asarray(happened, np.float64).ravel(),
    )
    which = np.clip((probability * bins).astype(int), 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, x, minlength=bins) for x in (probability, happened)]
    predicted, observed = (
        [s / n if n else None for s, n in zip(total, count, strict=True)] for total in sums
    )
    return {"count": count.tolist(), "predicted": predicted, "happened": observed}


def compute_calibration_error(table: dict[str, list]) -> float:
    """The expected calibration error: mean distance of prediction and frequency, by count."""
    rows = [(n, p, h) for n, p, h in zip(*table.values(), strict=True) if n]
    return sum(n * abs(p - h) for n, p, h in rows) / sum(n for n, _, _ in rows)
