"""Straighten the paths of latents, so that plans can be found by their gradients (Wang et al.
2026).
"""

from __future__ import annotations

from torch import Tensor

from worldmodel.model.multi_step import Average
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics

# Speeds below it count less, so that the gradient stays finite where nothing moves.
LEAST_SPEED = 1e-3


class Straightening(Objective):
    """1 - cos(v_t, v_{t+1}) of successive latent velocities v_t = z_t - z_{t-1}, z the posterior's
    mean.
    """

    loss_names = ["straightening"]

    def __init__(self, settings: None, spec: ModelSpec):
        super().__init__()

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        z, first = ctx.parts.dynamics.mean_latent(ctx.post).float(), ctx.batch["is_first"].bool()
        velocity = z[:, 1:] - z[:, :-1]
        cosine = compute_cosine(velocity[:, :-1], velocity[:, 1:])
        mean = Average(first)
        mean.add(2, 1 - cosine, ~first[:, 1:-1] & ~first[:, 2:])
        return {"straightening": mean.mean()}, {}


def compute_cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine (...) of vectors (...,S), falling to zero where either is zero."""
    lengths = [(x.square().sum(-1) + LEAST_SPEED**2).sqrt() for x in (one, other)]
    return (one * other).sum(-1) / (lengths[0] * lengths[1])
