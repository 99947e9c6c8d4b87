"""Representation objectives: what a latent should remember. Each is `objective(ctx) -> (losses, metrics)`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldmodel.backdrop import Backdrop
from worldmodel.types import Batch, State


@dataclass(frozen=True)
class Context:
    """One training batch as the model saw it; leaves (B,T,...)."""

    batch: Batch
    embed: Tensor
    post: State
    prior: State
    feat: Tensor
    backdrop: Backdrop | None  # None where there are no pictures
