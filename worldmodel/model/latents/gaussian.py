"""Diagonal Gaussian latent (PlaNet, Dreamer 1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Gaussian:
    """stoch (...,S), sampled by reparameterisation."""

    dist_keys = ("mean", "std")
    noisy = True

    def __init__(self, stoch: int, classes: int, unimix: float, min_std: float):
        self.shape: tuple[int, ...] = (stoch,)
        self.size = stoch
        self.num_params = 2 * stoch
        self.min_std = min_std

    def dist(self, params: Tensor) -> dict[str, Tensor]:
        mean, raw = params.float().chunk(2, -1)
        return {"mean": mean, "std": F.softplus(raw) + self.min_std}

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        dist = self.dist(params)
        noise = torch.randn(dist["mean"].shape, generator=generator, device=dist["mean"].device)
        return dist["mean"] + dist["std"] * noise

    def mode(self, params: Tensor) -> Tensor:
        return self.dist(params)["mean"]

    def compute_mean(self, dist: dict[str, Tensor]) -> Tensor:
        return dist["mean"]

    def kl(self, post: dict[str, Tensor], prior: dict[str, Tensor]) -> Tensor:
        ratio = (post["std"] / prior["std"]).square()
        shift = ((post["mean"] - prior["mean"]) / prior["std"]).square()
        return 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)

    def tabulate_log_probs(self, stoch: Tensor, dist: dict[str, Tensor]) -> Tensor:
        """log N(z_i; mean_j, std_j^2) as matrix products, which need no (N,M,S)."""
        middle = dist["mean"].detach().mean(0)  # keeps the numbers small that are subtracted
        z, mean, precision = stoch - middle, dist["mean"] - middle, dist["std"] ** -2
        square = z.square() @ precision.T - 2 * z @ (mean * precision).T
        square = square + (mean.square() * precision).sum(-1)
        volume = (2 * dist["std"].log() + math.log(2 * math.pi)).sum(-1)
        return -0.5 * (square + volume)

    def centre(self, dist: dict[str, Tensor]) -> dict[str, Tensor]:
        """The Gaussian with the mean and the variance of their mixture."""
        mean = dist["mean"].mean(0)
        spread = (dist["mean"] - mean).square().mean(0) + dist["std"].square().mean(0)
        return {"mean": mean, "std": spread.sqrt()}

    def flat(self, stoch: Tensor) -> Tensor:
        return stoch
