"""A latent without noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Deterministic:
    """stoch (...,S) is the network's output; the KL is the one between unit Gaussians around the
    two outputs.

    It is half the squared distance, so that the prior still learns to predict the posterior. Free
    nats would stop that: a decoder can use latents that are less than a nat apart.
    """

    dist_keys = ("mean",)
    noisy = False

    def __init__(self, stoch: int, classes: int, unimix: float, min_std: float):
        self.shape: tuple[int, ...] = (stoch,)
        self.size = stoch
        self.num_params = stoch

    def dist(self, params: Tensor) -> dict[str, Tensor]:
        return {"mean": params.float()}

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return params.float()

    def mode(self, params: Tensor) -> Tensor:
        return params.float()

    def compute_mean(self, dist: dict[str, Tensor]) -> Tensor:
        return dist["mean"]

    def kl(self, post: dict[str, Tensor], prior: dict[str, Tensor]) -> Tensor:
        return 0.5 * (post["mean"] - prior["mean"]).square().sum(-1)

    def tabulate_log_probs(self, stoch: Tensor, dist: dict[str, Tensor]) -> Tensor:
        """Those of unit Gaussians around the means, as in the KL."""
        square = torch.cdist(stoch, dist["mean"]).square()
        return -0.5 * (square + self.size * math.log(2 * math.pi))

    def centre(self, dist: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"mean": dist["mean"].mean(0)}

    def flat(self, stoch: Tensor) -> Tensor:
        return stoch
