"""Latents whose coordinates vary and are uncorrelated (after Bardes et al. 2022, VICReg)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.ranges import Weight
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.model.objectives.barlow import standardise, sum_squared_correlations
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    spread: Weight


class Decorrelation(Objective):
    """The mean of C_ij^2 over i != j, C the correlations of the posterior means' coordinates over
    the batch's steps, and the mean of max(0, 1 - std_i / spread) of the coordinates.

    Both are one number for the whole batch, so every step's loss is the same.
    """

    loss_names = ["decorrelation"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.spread = settings.spread

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        z = ctx.parts.dynamics.mean_latent(ctx.post).flatten(0, 1)
        with torch.autocast(z.device.type, enabled=False):
            loss = measure_correlation(z)
            if self.spread:
                loss = loss + measure_narrowness(z, self.spread)
        return {"decorrelation": loss.expand(ctx.feat.shape[:2])}, {}


def measure_correlation(z: Tensor) -> Tensor:
    """The mean squared correlation of different coordinates of vectors (N,S); 0 for one alone."""
    z, size = standardise(z), z.shape[-1]
    own = z.square().mean(0).square().sum()
    return (sum_squared_correlations(z, z) - own) / max(size * (size - 1), 1)


def measure_narrowness(z: Tensor, spread: float) -> Tensor:
    """How far the coordinates of vectors (N,S) fall short of a standard deviation, from 0 to 1."""
    std = (z.float().var(0, correction=0) + 1e-5).sqrt()
    return F.relu(1 - std / spread).mean()
