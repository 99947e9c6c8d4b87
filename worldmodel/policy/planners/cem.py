"""The cross-entropy method (PlaNet, algorithm 2), and what iCEM adds to it: kept elites and fewer
draws each round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from worldmodel.config.ranges import Count, Range
from worldmodel.policy.planners import ScoreFn, checked_scores, take
from worldmodel.policy.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class Settings:
    section = "planner"

    candidates: Count
    iterations: Count
    elites: Count
    momentum: Annotated[float, Range(0, 0.999)]
    keep: Annotated[float, Range(0, 1)]
    decay: Annotated[float, Range(1, 10)]


class CEM:
    """Refit the search distribution to the elites, `iterations` times; the plan is the last mean.

    A share `keep` of a round's elites stands again in the next, to be scored anew: where the model
    draws its latents, a good score may have been luck. Each round draws `decay` times fewer
    candidates, never fewer than four for an elite.
    """

    def __init__(self, settings: Settings):
        self.settings = settings

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | OneHot,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        settings = self.settings
        weights = torch.full(
            (mean.shape[0], settings.elites), 1.0 / settings.elites, device=mean.device
        )
        kept = mean.new_zeros(mean.shape[0], 0, *mean.shape[1:])
        for count in self.counts():
            drawn = proposal.sample(mean, std, count - kept.shape[1], generator)
            candidates = torch.cat([drawn, kept], 1)
            best = take(
                candidates, checked_scores(score_fn, candidates).topk(settings.elites, 1).indices
            )
            kept = best[:, : math.ceil(settings.keep * settings.elites)]
            new_mean, std = proposal.refit(best, weights)
            mean = torch.lerp(new_mean, mean, settings.momentum)
        return proposal.finish(mean)

    def counts(self) -> list[int]:
        """Candidates of each round, the kept ones among them."""
        settings = self.settings
        fewest = min(4 * settings.elites, settings.candidates)
        return [
            max(round(settings.candidates * settings.decay**-i), fewest)
            for i in range(settings.iterations)
        ]
