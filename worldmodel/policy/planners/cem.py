"""The cross-entropy method (PlaNet, algorithm 2), and what iCEM adds to it: kept elites and fewer
draws each round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.policy.planners import ScoreFn, checked_scores, take
from worldmodel.policy.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class CEM:
    """Refit the search distribution to the elites, `iterations` times; the plan is the last mean.

    A share `keep` of a round's elites stands again in the next, to be scored anew: where the model
    draws its latents, a good score may have been luck. Each round draws `decay` times fewer
    candidates, never fewer than four for an elite.
    """

    candidates: int
    iterations: int
    elites: int
    momentum: float = 0.0
    keep: float = 0.0
    decay: float = 1.0

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | OneHot,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        weights = torch.full((mean.shape[0], self.elites), 1.0 / self.elites, device=mean.device)
        kept = mean.new_zeros(mean.shape[0], 0, *mean.shape[1:])
        for count in self.counts():
            drawn = proposal.sample(mean, std, count - kept.shape[1], generator)
            candidates = torch.cat([drawn, kept], 1)
            best = take(
                candidates, checked_scores(score_fn, candidates).topk(self.elites, 1).indices
            )
            kept = best[:, : math.ceil(self.keep * self.elites)]
            new_mean, std = proposal.refit(best, weights)
            mean = torch.lerp(new_mean, mean, self.momentum)
        return proposal.finish(mean)

    def counts(self) -> list[int]:
        """Candidates of each round, the kept ones among them."""
        fewest = min(4 * self.elites, self.candidates)
        return [
            max(round(self.candidates * self.decay**-i), fewest) for i in range(self.iterations)
        ]
