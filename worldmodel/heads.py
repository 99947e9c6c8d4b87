"""Small predictors on features: reward and continuation; each has `mean(feat)` and `loss(feat, target)`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.nets import MLP, symexp, symlog


class GaussianHead(nn.Module):
    """Unit-variance Gaussian: (...,F) -> (...)."""

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__()
        self.net = MLP(inputs, 1, layers, units)

    def mean(self, feat: Tensor) -> Tensor:
        return self.net(feat).float().squeeze(-1)

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (self.mean(feat) - target).square()


class TwoHotHead(nn.Module):
    """Categorical over bins spread evenly in symlog space (Dreamer 3, eq. 9): (...,F) -> (...)."""

    def __init__(self, inputs: int, layers: int, units: int, bins: int):
        super().__init__()
        self.net = MLP(inputs, bins, layers, units, zero_output=True)
        self.bins: Tensor
        self.register_buffer("bins", torch.linspace(-20, 20, bins), persistent=False)

    def mean(self, feat: Tensor) -> Tensor:
        values = symexp(self.bins)
        half = (len(values) + 1) // 2
        terms = self.net(feat).float().softmax(-1) * values
        # Bins reach +-5e8: summing mirrored pairs first lets a symmetric guess cancel to zero exactly.
        if len(values) % 2:
            pairs = terms[..., : half - 1] + terms[..., half:].flip(-1)
            return pairs.sum(-1) + terms[..., half - 1]
        return (terms[..., :half] + terms[..., half:].flip(-1)).sum(-1)

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        logits = self.net(feat).float()
        return -(two_hot(symlog(target), self.bins) * logits.log_softmax(-1)).sum(-1)


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Weights on the two bins around x, whose mean is x: (...) -> (...,bins)."""
    x = x.clamp(bins[0], bins[-1]).unsqueeze(-1)
    width = bins[1] - bins[0]
    return (1 - (x - bins).abs() / width).clamp(min=0)


RewardHead = GaussianHead | TwoHotHead


class ContinueHead(nn.Module):
    """Probability that the episode goes on: (...,F) -> (...)."""

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__()
        self.net = MLP(inputs, 1, layers, units)

    def mean(self, feat: Tensor) -> Tensor:
        return self.net(feat).float().squeeze(-1).sigmoid()

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.net(feat).float().squeeze(-1), target, reduction="none")
