"""Gradient ascent through the model: Adam moves several plans at once along the score's gradient.

g = d score / d actions       back through all steps of the rollout
a <- clip(a + Adam(g))        box: project
z <- z + Adam(dz/da g)        box: squash, where a = low + (high - low) (1 + tanh z) / 2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from worldmodel.config.ranges import Candidates, Count, Positive, Range, Rounds
from worldmodel.policy.planners import (
    WORST,
    HasGradient,
    ScoreFn,
    compute_scores,
    select_candidates,
)
from worldmodel.policy.planners.proposals import Box, SeededProposal

EDGE = 1e-3  # squash: how near the ends, in units of the box, a plan may begin


@dataclass(frozen=True)
class Settings:
    section = "planner"
    needs_gradient = True
    needs_continuous = True

    candidates: Candidates
    iterations: Rounds
    elites: Count
    rate: Positive
    box: Literal["project", "squash"]
    warmup: Annotated[int, Range(0, 1000)]


class Gradient:
    """Take `iterations` steps of Adam from `candidates` plans; the plan is the best of them.

    The first begins at the search's mean and the others are sampled around it, after `warmup`
    rounds of the cross-entropy method. What counts is the last score of each that was finite.
    """

    def __init__(self, settings: Settings):
        self.settings = settings

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | SeededProposal,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        assert isinstance(score_fn, HasGradient), "this score has no gradient"
        settings = self.settings
        plans = self.choose_starts(score_fn, mean, std, proposal, generator)
        ways: dict[str, Projection | Squashing] = {
            "project": Projection(proposal),
            "squash": Squashing(*proposal.limits),
        }
        way = ways[settings.box]
        free, adam = way.enter(plans), Adam(settings.rate)
        found, scores = plans, torch.full(plans.shape[:2], WORST, device=plans.device)
        for _ in range(settings.iterations):
            now, gradient = score_fn.score_with_gradient(plans)
            found, scores = keep_finite(found, scores, plans, now)
            step = adam.step(way.pull_back(free, gradient.float().nan_to_num(0.0, 0.0, 0.0)))
            free = way.confine(free + step)
            plans = way.leave(free)
        found, scores = keep_finite(found, scores, plans, compute_scores(score_fn, plans))
        return proposal.finish(select_candidates(found, scores.argmax(1, keepdim=True)).squeeze(1))

    def choose_starts(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | SeededProposal,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The plans (B,N,H,A) to begin with, the search's mean first."""
        count, elites = self.settings.candidates, self.settings.elites
        weights = torch.full((mean.shape[0], elites), 1.0 / elites, device=mean.device)
        for _ in range(self.settings.warmup):
            candidates = proposal.sample(mean, std, count, generator)
            best = compute_scores(score_fn, candidates).topk(elites, 1).indices
            mean, std = proposal.refit(select_candidates(candidates, best), weights)
        first = proposal.finish(mean).unsqueeze(1)
        if count == 1:
            return first
        return torch.cat([first, proposal.sample(mean, std, count - 1, generator)], 1)


def keep_finite(
    found: Tensor, scores: Tensor, plans: Tensor, now: Tensor
) -> tuple[Tensor, Tensor]:
    """The plans (B,N,H,A) and scores (B,N) of now where these are finite, else those so far."""
    fine = torch.isfinite(now) & (now > WORST)
    return torch.where(fine[..., None, None], plans, found), torch.where(fine, now.float(), scores)


class Adam:
    """Adam's step uphill (Kingma and Ba 2015, algorithm 1), for each entry on its own."""

    def __init__(self, rate: float, decay: float = 0.9, square_decay: float = 0.999):
        self.rate, self.decay, self.square_decay = rate, decay, square_decay
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def step(self, gradient: Tensor) -> Tensor:
        self.count += 1
        one, two = self.decay, self.square_decay
        mean = one * self.mean + (1 - one) * gradient
        square = two * self.square + (1 - two) * gradient.square()
        self.mean, self.square = mean, square
        deviation = (square / (1 - two**self.count)).sqrt()
        return self.rate * mean / (1 - one**self.count) / (deviation + 1e-8)


class Projection:
    """Actions themselves are moved, and clamped to the box after each step."""

    def __init__(self, proposal: Box | SeededProposal):
        self.confine = proposal.finish

    def enter(self, plans: Tensor) -> Tensor:
        return plans

    def leave(self, free: Tensor) -> Tensor:
        return free

    def pull_back(self, free: Tensor, gradient: Tensor) -> Tensor:
        return gradient


class Squashing:
    """Values before a tanh are moved, so that no action can leave the box."""

    def __init__(self, low: float, high: float):
        self.low, self.range = low, high - low

    def enter(self, plans: Tensor) -> Tensor:
        share = ((plans - self.low) / self.range).clamp(EDGE, 1 - EDGE)
        return torch.atanh(2 * share - 1)

    def leave(self, free: Tensor) -> Tensor:
        return self.low + self.range * (1 + free.tanh()) / 2

    def pull_back(self, free: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by the values before the tanh."""
        return gradient * self.range / 2 * (1 - free.tanh().square())

    def confine(self, free: Tensor) -> Tensor:
        return free
