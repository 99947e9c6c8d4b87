"""The cross-entropy method (PlaNet, algorithm 2), with iCEM's additions: kept elites and fewer
candidates each round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from worldmodel.config.ranges import Candidates, Count, Range, Rounds
from worldmodel.policy.planners import ScoreFn, compute_scores, select_candidates
from worldmodel.policy.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class Settings:
    section = "planner"

    candidates: Candidates
    iterations: Rounds
    elites: Count
    momentum: Annotated[float, Range(0, 0.999)]
    keep: Annotated[float, Range(0, 1)]
    decay: Annotated[float, Range(1, 10)]


class CEM:
    """Refit the search distribution to the elites, `iterations` times; the plan is the last mean.

    A share `keep` of a round's elites are candidates of the next as well, and are scored anew: if
    the model samples its latents, a good score may be due to the sample. Each round has `decay`
    times fewer candidates, but no fewer than four for each elite.
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
        for count in self.count_candidates():
            sampled = proposal.sample(mean, std, count - kept.shape[1], generator)
            candidates = torch.cat([sampled, kept], 1)
            best = select_candidates(
                candidates, compute_scores(score_fn, candidates).topk(settings.elites, 1).indices
            )
            kept = best[:, : math.ceil(settings.keep * settings.elites)]
            new_mean, std = proposal.refit(best, weights)
            mean = torch.lerp(new_mean, mean, settings.momentum)
        return proposal.finish(mean)

    def count_candidates(self) -> list[int]:
        """The number of candidates in each round, kept ones included."""
        settings = self.settings
        fewest = min(4 * settings.elites, settings.candidates)
        return [
            max(round(settings.candidates * settings.decay**-i), fewest)
            for i in range(settings.iterations)
        ]
