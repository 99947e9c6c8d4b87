"""Comparisons of numbers as words, which the page's sentences are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

CLEAR = 2.0  # standard errors that a clear difference has at least
CLEAR_SHARE = 0.05  # of the larger number, where there is no error to compare with


def judge(a: Sequence[float], b: Sequence[float]) -> int:
    """1 where a is clearly above b, -1 where it is below, 0 where their seeds overlap.

    Clear is a difference of two standard errors. A single number on either side has none: then it
    is a share of the larger number.
    """
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) > 1:
        least = CLEAR * math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    else:
        least = CLEAR_SHARE * max(abs(np.mean(a)), abs(np.mean(b)))
    return 0 if abs(difference) < least else int(np.sign(difference))


def describe_verdict(verdict: int, seeds: int) -> str:
    """Whether a comparison agrees with the lecture: 1, 0 or -1, over so many seeds."""
    over = "one seed" if seeds == 1 else f"{seeds} seeds"
    return {
        1: f"as the lecture says ({over})",
        0: f"no clear difference over {over}",
        -1: f"the opposite of what the lecture says ({over})",
    }[verdict]


def describe_mean(scores: Sequence[float]) -> str:
    mean = f"{np.mean(scores):.3g}"
    return mean if len(scores) < 2 else f"{mean} ({min(scores):.3g} to {max(scores):.3g})"


def describe_order(scores: Mapping[str, Sequence[float]]) -> str:
    """Which neighbours of an order that should rise do, which fall, and which are alike."""
    names = list(scores)
    pairs = list(zip(names, names[1:], strict=False))
    found = {p: judge(scores[p[1]], scores[p[0]]) for p in pairs}
    words = []
    for verdict, what in ((1, "rises"), (0, "is unclear"), (-1, "falls")):
        steps = [f"{a} to {b}" for (a, b), own in found.items() if own == verdict]
        if steps:
            words.append(f"{what} from {', '.join(steps)}")
    return "; it ".join(words)


def fit_power(x: ArrayLike, y: ArrayLike) -> float:
    """The exponent p of y = c x^p by least squares in logarithms; numbers must be positive."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
