"""Groups of one-hot variables with straight-through gradients (Dreamer 2, 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldmodel.model.networks import compute_log_probs, sample_one_hot, straight_through


class Categorical:
    """stoch (...,S,K) one-hot; a share `unimix` of uniform probability keeps the KL finite
    (Dreamer 3).
    """

    dist_keys = ("logits",)
    noisy = True

    def __init__(self, stoch: int, classes: int, unimix: float, min_std: float):
        self.shape: tuple[int, ...] = (stoch, classes)
        self.size = stoch * classes
        self.num_params = stoch * classes
        self.unimix = unimix

    def dist(self, params: Tensor) -> dict[str, Tensor]:
        return {"logits": compute_log_probs(params.float().unflatten(-1, self.shape), self.unimix)}

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return sample_one_hot(params.unflatten(-1, self.shape), self.unimix, generator)

    def mode(self, params: Tensor) -> Tensor:
        logs = self.dist(params)["logits"]
        return straight_through(logs, logs.argmax(-1))

    def compute_mean(self, dist: dict[str, Tensor]) -> Tensor:
        return dist["logits"].exp().flatten(-2)

    def kl(self, post: dict[str, Tensor], prior: dict[str, Tensor]) -> Tensor:
        log_post = post["logits"]
        return (log_post.exp() * (log_post - prior["logits"])).sum((-2, -1))

    def tabulate_log_probs(self, stoch: Tensor, dist: dict[str, Tensor]) -> Tensor:
        return stoch.flatten(1) @ dist["logits"].flatten(1).T

    def centre(self, dist: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of the probabilities."""
        return {"logits": dist["logits"].logsumexp(0) - math.log(len(dist["logits"]))}

    def flat(self, stoch: Tensor) -> Tensor:
        return stoch.flatten(-2)
