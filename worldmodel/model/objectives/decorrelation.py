"""Latents whose coordinates tell different things (Bardes et al. 2022, VICReg's covariance)."""

from __future__ import annotations

from torch import Tensor

from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.model.objectives.barlow import standardise, sum_squared_correlations
from worldmodel.spaces import Losses, Metrics


class Decorrelation(Objective):
    """The mean of C_ij^2 over i != j, C the correlations of the posterior means' coordinates over
    the batch's steps.

    C is one matrix for the whole batch, so every step's loss is the same number.
    """

    loss_names = ["decorrelation"]

    def __init__(self, settings: None, spec: ModelSpec):
        super().__init__()

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        z = ctx.parts.dynamics.mean_latent(ctx.post).flatten(0, 1)
        return {"decorrelation": measure_correlation(z).expand(ctx.feat.shape[:2])}, {}


def measure_correlation(z: Tensor) -> Tensor:
    """The mean squared correlation of different coordinates of vectors (N,S); 0 of one alone."""
    z, size = standardise(z), z.shape[-1]
    own = z.square().mean(0).square().sum()
    return (sum_squared_correlations(z, z) - own) / max(size * (size - 1), 1)
