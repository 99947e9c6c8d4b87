"""Numbers with bounds, as the types of configuration keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Closed bounds of a number; None leaves a side open."""

    low: float | None = None
    high: float | None = None


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(1e-12)]
