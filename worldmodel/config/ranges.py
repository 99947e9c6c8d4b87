"""Types of configuration keys beyond Python's own: numbers with bounds, names from a registry, and
choices that several components offer.
"""

from __future__ import annotations

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

Negatives = Literal["all", "others", "aligned"]
Target = Literal["grad", "stop", "ema"]
