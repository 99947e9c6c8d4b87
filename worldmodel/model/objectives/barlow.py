"""Redundancy reduction between features and embeddings (Zbontar et al. 2021; R2-Dreamer)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.config.ranges import Target, Weight
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    redundancy: Weight
    target: Target


class Barlow(Objective):
    """sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2 of the cross-correlations C over the
    batch's steps.

    C is one matrix for the whole batch, so every step's loss is the same number.
    """

    loss_names = ["barlow"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings, self.needs_slow = settings, settings.target == "ema"
        self.project = nn.Linear(spec.feat, spec.embed, bias=False)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        projected = self.project(ctx.feat)
        with torch.autocast(projected.device.type, enabled=False):
            ours, theirs = (
                standardise(projected),
                standardise(ctx.select_target(self.settings.target)),
            )
            same = (ours * theirs).mean(0)
            others = sum_squared_correlations(ours, theirs) - same.square().sum()
        loss = (1 - same).square().sum() + self.settings.redundancy * others
        return {"barlow": loss.expand(ctx.feat.shape[:2])}, {"barlow/correlation": same.mean()}


def standardise(x: Tensor) -> Tensor:
    """(...,E) to (N,E) of mean 0 and variance 1; what never changes becomes 0."""
    x = x.float().flatten(0, -2)
    x = x - x.mean(0)
    return x / (x.square().mean(0) + 1e-5).sqrt()


def sum_squared_correlations(a: Tensor, b: Tensor) -> Tensor:
    """sum_ij (a'b / N)_ij^2 of (N,E) by whichever of a'b (E,E), and aa' and bb' (N,N), is
    smaller.
    """
    n, size = a.shape
    total = (a.T @ b).square().sum() if size <= n else ((a @ a.T) * (b @ b.T)).sum()
    return total / n**2
