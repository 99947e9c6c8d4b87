"""The goal of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldmodel.spaces import Batch


@dataclass(frozen=True)
class Goal:
    """Observations (B,1,...) to reach, one for every environment or one for all, and how distance
    is measured.
    """

    seen: Batch
    distance: str
    at: str


@dataclass(frozen=True)
class PixelGoal:
    """Designated pixels (row, column) of an episode's first picture, and where each is to go.

    Both are (B,D,2), for every environment, or (1,D,2) for all.
    """

    designated: Tensor
    pixels: Tensor
