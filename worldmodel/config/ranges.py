"""Types of configuration keys beyond Python's own: numbers with bounds, names from a registry, and
choices that several components offer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal


@dataclass(frozen=True)
class Range:
    """Closed bounds of a number; None leaves a side open."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class OneOf:
    """The names in a registry's table."""

    table: Mapping[str, str]


class AnyOf(OneOf):
    """Any number of these names, as a list or as text with commas; `none` is no name."""


class Time:
    """A wall-clock time, as text: a number with s, m or h behind it."""


UNITS = {"s": 1, "m": 60, "h": 3600}


def read_seconds(text: object) -> float | None:
    """The seconds of a time such as 90s, 30m or 1.5h; None if it is none."""
    found = (
        re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smh])", text) if isinstance(text, str) else None
    )
    return float(found[1]) * UNITS[found[2]] if found else None


Count = Annotated[int, Range(1)]
# Sizes end where a product of three still fits 64 bits: anyone may have written a saved run.
Width = Annotated[int, Range(1, 10**6)]
Horizon = Annotated[int, Range(1, 10**6)]
Candidates = Annotated[int, Range(1, 10**9)]
Layers = Annotated[int, Range(1, 100)]
Rounds = Annotated[int, Range(1, 1000)]
Natural = Annotated[int, Range(0)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Pixel = tuple[Natural, Natural]  # row, column
Positive = Annotated[float, Range(1e-12)]
Duration = Annotated[str, Time()]

Negatives = Literal["all", "others", "aligned"]
Target = Literal["grad", "stop", "ema"]
