"""Distributions over actions: `sample(generator)`, `mode()`, `log_prob(action)`, `entropy()`, all
of leaves (...,A).

Samples carry gradients to the parameters: by reparameterisation, or straight through for one-hot
groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.model.networks import compute_log_probs, sample_one_hot, straight_through

LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)


class ContinuousDist:
    """Samples with their log-probability."""

    def sample_with_log_prob(
        self, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """A sample (...,A) and its log-probability (...), both with gradients."""
        action = self.sample(generator)
        return action, self.log_prob(action)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        raise NotImplementedError

    def log_prob(self, action: Tensor) -> Tensor:
        raise NotImplementedError


class BoundedNormal(ContinuousDist):
    """A normal whose mean lies in [-1, 1] and whose std is bounded (Dreamer 3); samples may leave
    the box.

    `clip_actions` puts a sample into the box before it is used; log_prob is that of the sample
    itself.
    """

    def __init__(self, mean: Tensor, raw_std: Tensor, min_std: float, max_std: float):
        self.mean = torch.tanh(mean)
        self.std = (max_std - min_std) * torch.sigmoid(raw_std + 2.0) + min_std

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + self.std * normal_like(self.mean, generator)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        return normal_log_prob(action, self.mean, self.std).sum(-1)

    def entropy(self) -> Tensor:
        return (0.5 + LOG_ROOT_TAU + self.std.log()).sum(-1)

    @staticmethod
    def entropy_range(min_std: float, max_std: float) -> tuple[float, float]:
        """The least and the largest entropy of one action."""
        low, high = (0.5 + LOG_ROOT_TAU + math.log(std) for std in (min_std, max_std))
        return low, high


class TanhNormal(ContinuousDist):
    """A normal squashed into (-1, 1) (Dreamer 1); its entropy has no closed form and is estimated
    from one sample.
    """

    def __init__(self, mean: Tensor, raw_std: Tensor, min_std: float, max_std: float):
        self.mean = 5.0 * torch.tanh(mean / 5.0)
        # Dreamer 1 starts at softplus(5) and has no upper bound; at large stds the squashed
        # density is U-shaped.
        self.std = (F.softplus(raw_std + 5.0) + min_std).clamp(max=max_std)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.tanh(self.mean + self.std * normal_like(self.mean, generator))

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        return self._log_prob_of_tanh(torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6)))

    def entropy(self) -> Tensor:
        return -self._log_prob_of_tanh(self.mean + self.std * torch.randn_like(self.mean))

    def sample_with_log_prob(
        self, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.mean + self.std * normal_like(self.mean, generator)
        return torch.tanh(x), self._log_prob_of_tanh(x)

    def _log_prob_of_tanh(self, x: Tensor) -> Tensor:
        """Log-probability of tanh(x); log(1 - tanh(x)^2) is written without cancellation."""
        slope = 2 * (math.log(2) - x - F.softplus(-2 * x))
        return (normal_log_prob(x, self.mean, self.std) - slope).sum(-1)


class SquashedNormal(TanhNormal):
    """A normal squashed into (-1, 1), as in soft actor-critic: its mean is unbounded, and the log
    of its std lies between two bounds.
    """

    def __init__(self, mean: Tensor, raw_std: Tensor, min_std: float, max_std: float):
        low, high = math.log(min_std), math.log(max_std)
        self.mean = mean
        self.std = torch.exp(low + 0.5 * (high - low) * (torch.tanh(raw_std) + 1))


class TruncatedNormal(ContinuousDist):
    """A normal cut to [-1, 1] and renormalised (Dreamer 2)."""

    def __init__(self, mean: Tensor, raw_std: Tensor, min_std: float, max_std: float):
        self.mean = torch.tanh(mean)
        self.std = (2 * torch.sigmoid(raw_std / 2) + min_std).clamp(max=max_std)
        self.low, self.high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        self.cdf_low = torch.special.ndtr(self.low)
        self.mass = (torch.special.ndtr(self.high) - self.cdf_low).clamp(min=1e-6)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        share = torch.rand(self.mean.shape, generator=generator, device=self.mean.device)
        quantile = (self.cdf_low + share * self.mass).clamp(1e-6, 1 - 1e-6)
        return (self.mean + self.std * torch.special.ndtri(quantile)).clamp(-1 + 1e-6, 1 - 1e-6)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        return (normal_log_prob(action, self.mean, self.std) - self.mass.log()).sum(-1)

    def entropy(self) -> Tensor:
        edge = (self.low * gaussian_pdf(self.low) - self.high * gaussian_pdf(self.high)) / (
            2 * self.mass
        )
        return (0.5 + LOG_ROOT_TAU + self.std.log() + self.mass.log() + edge).sum(-1)


class OneHotGroups:
    """One-hot choices, one per group, laid end to end; a share `unimix` of uniform keeps every
    action possible.
    """

    def __init__(self, logits: Tensor, groups: Sequence[int], unimix: float):
        self.logits, self.unimix = logits.split(list(groups), -1), unimix
        self.log_probs = [compute_log_probs(part, unimix) for part in self.logits]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.cat(
            [sample_one_hot(part, self.unimix, generator) for part in self.logits], -1
        )

    def mode(self) -> Tensor:
        return torch.cat([straight_through(logs, logs.argmax(-1)) for logs in self.log_probs], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        return (torch.cat(self.log_probs, -1) * action).sum(-1)

    def entropy(self) -> Tensor:
        return -torch.stack([(logs.exp() * logs).sum(-1) for logs in self.log_probs]).sum(0)

    @staticmethod
    def entropy_range(count: int, unimix: float) -> tuple[float, float]:
        """The least and the largest entropy of one group of so many choices."""
        rare = unimix / count
        likely = 1 - (count - 1) * rare
        low = -likely * math.log(likely) - ((count - 1) * rare * math.log(rare) if rare else 0.0)
        return low, math.log(count)


Dist = BoundedNormal | TanhNormal | TruncatedNormal | OneHotGroups
CONTINUOUS: dict[str, type[BoundedNormal] | type[TanhNormal] | type[TruncatedNormal]] = {
    "bounded": BoundedNormal,
    "tanh": TanhNormal,
    "squashed": SquashedNormal,
    "truncated": TruncatedNormal,
}


def clip_actions(action: Tensor) -> Tensor:
    """Clip actions to [-1, 1] with straight-through gradients; one-hot actions stay as they
    are.
    """
    return action.clamp(-1, 1).detach() + (action - action.detach())


def normal_like(mean: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(mean.shape, generator=generator, device=mean.device)


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std).square() - std.log() - LOG_ROOT_TAU


def gaussian_pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square() - LOG_ROOT_TAU)
