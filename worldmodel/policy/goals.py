"""The goal of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.spaces import Batch


@dataclass(frozen=True)
class Goal:
    """Observations (B,1,...) to reach, one for every environment or one for all, and how distance
    is measured.
    """

    seen: Batch
    distance: str
    at: str
