"""Where candidates come from: a Gaussian cut to the box, or one-hot samples from group
probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.spaces import ActionSpace


class Box:
    """Continuous actions within [low, high]; the search distribution is N(mean, std), clamped.

    Noise may be coloured over a plan's steps: power falls as frequency^-color, so that actions
    keep their direction for longer.
    """

    def __init__(
        self,
        low: float = -1.0,
        high: float = 1.0,
        init_std: float = 1.0,
        min_std: float = 0.05,
        color: float = 0.0,
    ):
        self.low, self.high, self.init_std, self.min_std, self.color = (
            low,
            high,
            init_std,
            min_std,
            color,
        )

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest action."""
        return self.low, self.high

    def start(self, batch: int, horizon: int, size: int) -> tuple[Tensor, Tensor]:
        """The broad beginning of a search: mean, std (B,H,A)."""
        mean = torch.full((batch, horizon, size), (self.low + self.high) / 2)
        return mean, torch.full_like(mean, self.init_std)

    def sample(
        self, mean: Tensor, std: Tensor, count: int, generator: torch.Generator | None
    ) -> Tensor:
        batch, *rest = mean.shape
        noise = torch.randn(batch, count, *rest, generator=generator, device=mean.device)
        if self.color:
            noise = colour_noise(noise, self.color)
        return (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(self.low, self.high)

    def sample_uniform(
        self, mean: Tensor, count: int, generator: torch.Generator | None
    ) -> Tensor:
        """Sample candidates uniformly from the whole box, for random shooting."""
        batch, *rest = mean.shape
        draw = torch.rand(batch, count, *rest, generator=generator, device=mean.device)
        return self.low + (self.high - self.low) * draw

    def refit(self, candidates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean and std of candidates (B,K,H,A); weights (B,K) sum to 1."""
        w = weights[..., None, None]
        mean = (w * candidates).sum(1)
        std = (w * (candidates - mean.unsqueeze(1)).square()).sum(1).sqrt()
        return mean, std.clamp(min=self.min_std)

    def finish(self, mean: Tensor) -> Tensor:
        return mean.clamp(self.low, self.high)

    def resume(self, plan: Tensor, fresh: Tensor) -> Tensor:
        """Where the next search starts, given the plan left over from the last one."""
        return plan


def colour_noise(white: Tensor, color: float) -> Tensor:
    """Turn white noise (...,H,A) into noise of unit variance whose power falls as frequency^-color
    over H.
    """
    horizon = white.shape[-2]
    frequency = torch.fft.fftfreq(horizon, device=white.device).abs().clamp(min=1 / horizon)
    gain = frequency ** (-color / 2)
    gain = gain / gain.square().mean().sqrt()
    half = gain[: horizon // 2 + 1].unsqueeze(-1)
    return torch.fft.irfft(torch.fft.rfft(white, dim=-2) * half, n=horizon, dim=-2)


class OneHot:
    """Discrete actions: `mean` holds each group's probabilities, `std` is unused."""

    def __init__(self, space: ActionSpace, floor: float = 0.02):
        self.space, self.floor = space, floor

    def start(self, batch: int, horizon: int, size: int) -> tuple[Tensor, Tensor]:
        probs = torch.cat([torch.full((n,), 1.0 / n) for n in self.space.groups])
        mean = probs.expand(batch, horizon, size).clone()
        return mean, torch.ones_like(mean)

    def sample(
        self, mean: Tensor, std: Tensor, count: int, generator: torch.Generator | None
    ) -> Tensor:
        batch, horizon, _ = mean.shape
        picks = []
        for probs in mean.split(list(self.space.groups), -1):
            probs = (1 - self.floor) * probs + self.floor / probs.shape[-1]
            sampled = torch.multinomial(
                probs.flatten(0, 1), count, replacement=True, generator=generator
            )
            picks.append(sampled.unflatten(0, (batch, horizon)).permute(0, 2, 1))
        return self.space.one_hot(picks)

    def sample_uniform(
        self, mean: Tensor, count: int, generator: torch.Generator | None
    ) -> Tensor:
        start, std = self.start(mean.shape[0], mean.shape[1], mean.shape[2])
        return self.sample(start.to(mean.device), std, count, generator)

    def refit(self, candidates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mean = (weights[..., None, None] * candidates).sum(1)
        return mean, torch.ones_like(mean)

    def finish(self, mean: Tensor) -> Tensor:
        return self.space.one_hot([p.argmax(-1) for p in mean.split(list(self.space.groups), -1)])

    def resume(self, plan: Tensor, fresh: Tensor) -> Tensor:
        """Half way between the old plan's one-hot codes and the fresh start, so that the search
        can leave the plan.
        """
        return 0.5 * (plan + fresh)


class SeededProposal:
    """Another proposal whose last candidates are always the given drafts (B,P,H,A), such as an
    actor's plans.
    """

    def __init__(self, inner: Box | OneHot, drafts: Tensor):
        self.inner, self.drafts = inner, drafts

    @property
    def limits(self) -> tuple[float, float]:
        assert isinstance(self.inner, Box)
        return self.inner.limits

    def sample(
        self, mean: Tensor, std: Tensor, count: int, generator: torch.Generator | None
    ) -> Tensor:
        drafts = self.drafts[:, : count - 1]
        return torch.cat(
            [self.inner.sample(mean, std, count - drafts.shape[1], generator), drafts], 1
        )

    def refit(self, candidates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.refit(candidates, weights)

    def finish(self, mean: Tensor) -> Tensor:
        return self.inner.finish(mean)


def make_proposal(
    space: ActionSpace, init_std: float, min_std: float, color: float
) -> Box | OneHot:
    return (
        OneHot(space) if space.discrete else Box(init_std=init_std, min_std=min_std, color=color)
    )
