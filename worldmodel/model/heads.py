"""Heads on features for reward, value and continuation: `mean(feat)` and `loss(feat, target)`.

Both also come in two steps, so that one pass through the network serves both: `read(feat)`, then
`mean_of(read)` and `loss_of(read, target)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UsageError
from worldmodel.kernels import elementwise, replaceable_by
from worldmodel.model.networks import MLP, UNIT, apply_side_by_side, symexp


class ScalarHead(nn.Module):
    """Predicts a number from features, (...,F) -> (...)."""

    net: MLP

    def read(self, feat: Tensor) -> Tensor:
        return self.net(feat)

    def mean_of(self, read: Tensor) -> Tensor:
        raise NotImplementedError

    def loss_of(self, read: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def mean(self, feat: Tensor) -> Tensor:
        return self.mean_of(self.read(feat))

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return self.loss_of(self.read(feat), target)


class NoHead(ScalarHead):
    """In place of the heads of an agent without a model: it predicts nothing."""

    def read(self, feat: Tensor) -> Tensor:
        raise UsageError("this agent has no model: it predicts no reward and no end")


class GaussianHead(ScalarHead):
    """Unit-variance Gaussian."""

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__()
        self.net = MLP(inputs, 1, layers, units)

    def mean_of(self, read: Tensor) -> Tensor:
        return read.squeeze(-1)

    def loss_of(self, read: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (read.squeeze(-1) - target).square()


class QuadraticHead(ScalarHead):
    """A maximum minus a squared distance from a point, c - |W (z - g)|^2 (SOLAR): with linear
    dynamics, planning is a linear-quadratic problem.

    W has `rows` rows, or as many as `inputs` if that is 0. Few rows fit few goals without learning
    them by heart.
    """

    def __init__(self, inputs: int, rows: int = 0):
        super().__init__()
        self.net = Passage()  # type: ignore[assignment]
        self.most = nn.Parameter(torch.zeros(()))  # c
        self.point = nn.Parameter(torch.zeros(inputs))  # g
        self.weight = nn.Parameter(torch.eye(rows or inputs, inputs) / inputs**0.5)  # W

    def mean_of(self, read: Tensor) -> Tensor:
        with torch.autocast(read.device.type, enabled=False):
            return self.most - self.measure_gap(read)

    def measure_gap(self, z: Tensor) -> Tensor:
        """|W (z - g)|^2 (...)."""
        return ((z.float() - self.point) @ self.weight.mT).square().sum(-1)

    def read_cost(self, rank: int = 0) -> Tensor:
        """F (n+1,n+1): (z, 1)' F (z, 1) is |W (z - g)|^2.

        Of W this keeps as many of the largest singular values as `rank` says, or all.
        """
        weight = self.weight
        if rank:
            _, scale, axes = torch.linalg.svd(weight, full_matrices=False)
            weight = scale[:rank].unsqueeze(-1) * axes[:rank]
        root = torch.cat([weight, -(weight @ self.point).unsqueeze(-1)], 1)
        return root.mT @ root

    def loss_of(self, read: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (self.mean_of(read) - target).square()


class BellHead(QuadraticHead):
    """A bell in place of a parabola, floor + height exp(-|W (z - g)|^2), for rewards that level
    off far from a goal (cf. the saturating cost of PILCO, Deisenroth and Rasmussen 2011). Its
    squared distance is a quadratic cost nevertheless.
    """

    def __init__(self, inputs: int, rows: int = 0):
        super().__init__(inputs, rows)
        del self.most
        self.floor = nn.Parameter(torch.zeros(()))
        self.raw_height = nn.Parameter(torch.full((), UNIT))  # of one, at first

    def mean_of(self, read: Tensor) -> Tensor:
        with torch.autocast(read.device.type, enabled=False):
            bell = (-self.measure_gap(read)).exp()
            return self.floor + F.softplus(self.raw_height) * bell


class TwoHotHead(ScalarHead):
    """Categorical over bins that grow exponentially, symexp(-20..20) (Dreamer 3, eq. 9 and 10)."""

    def __init__(self, inputs: int, layers: int, units: int, bins: int):
        super().__init__()
        self.net = MLP(inputs, bins, layers, units, zero_output=True, exact=False)
        self.bins: Tensor
        # Mirrored exactly, so that a symmetric prediction is zero.
        half = symexp(torch.linspace(-20, 20, bins))[: bins // 2]
        middle = torch.zeros(bins % 2)
        self.register_buffer("bins", torch.cat([half, middle, -half.flip(0)]), persistent=False)

    def mean_of(self, read: Tensor) -> Tensor:
        return two_hot_mean(read, self.bins)

    def loss_of(self, read: Tensor, target: Tensor) -> Tensor:
        return two_hot_loss(read, *encode_two_hot(target, self.bins))


def encode_two_hot(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the bin below x and the weight of the bin above it: (...) -> (...), (...)."""
    x = x.float().clamp(bins[0], bins[-1])
    low = (torch.searchsorted(bins, x.contiguous(), right=True) - 1).clamp(0, len(bins) - 2)
    return low, (x - bins[low]) / (bins[low + 1] - bins[low])


@replaceable_by(elementwise.two_hot_mean)
def two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """The mean of logits (...,K) over bins that mirror each other around zero: (...)."""
    terms = logits.float().softmax(-1) * bins
    half = len(bins) // 2
    # Bins reach +-5e8: summing mirrored pairs first lets a symmetric prediction cancel to zero.
    pairs = terms[..., :half] + terms[..., -half:].flip(-1)
    return pairs.sum(-1) + terms[..., half : len(bins) - half].sum(-1)


@replaceable_by(elementwise.two_hot_loss)
def two_hot_loss(logits: Tensor, low: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy (...) of logits (...,K) with the codes of `encode_two_hot`."""
    log_probs = logits.float().log_softmax(-1)
    below = log_probs.gather(-1, low.unsqueeze(-1)).squeeze(-1)
    above = log_probs.gather(-1, low.unsqueeze(-1) + 1).squeeze(-1)
    return -((1 - share) * below + share * above)


class ContinueHead(ScalarHead):
    """Probability that the episode goes on."""

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__()
        self.net = MLP(inputs, 1, layers, units)

    def mean_of(self, read: Tensor) -> Tensor:
        return read.float().squeeze(-1).sigmoid()

    def loss_of(self, read: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            read.float().squeeze(-1), target, reduction="none"
        )


class KnownHead(ScalarHead):
    """A number that is known as a function of the observed vector, so that nothing is learnt.

    `restore` gives the vectors (...,n) that features (...,F) stand for.
    """

    def __init__(self, restore: Callable[[Tensor], Tensor], function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.restore, self.function = restore, function
        self.net = Passage()  # type: ignore[assignment]

    def mean_of(self, read: Tensor) -> Tensor:
        found = self.function(self.restore(read))
        return found if found.is_floating_point() else found.float()

    def loss_of(self, read: Tensor, target: Tensor) -> Tensor:
        return torch.zeros_like(target)


class Passage(nn.Module):
    """Returns its input: the network of a head that has none."""

    hidden: tuple[()] = ()

    def forward(self, x: Tensor) -> Tensor:
        return x


def predict_means(heads: Sequence[ScalarHead], feat: Tensor) -> list[Tensor]:
    """Means of several heads on the same features."""
    reads = apply_side_by_side([head.net for head in heads], feat)
    return [head.mean_of(read) for head, read in zip(heads, reads, strict=True)]
