"""A learned weight of the entropy, which holds the entropy at a target (Haarnoja et al. 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """A positive number that gradients may move: alpha = exp(log)."""

    def __init__(self, start: float):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        return self.log.exp()

    def make_loss(self, entropy: Tensor, target: float, mean: Tensor) -> Tensor:
        """alpha (H - target), averaged with the weights `mean`, which add up to 1.

        Alpha grows while the entropy is below its target, and shrinks while it is above.
        """
        return self() * (mean * (entropy.detach() - target)).sum()
