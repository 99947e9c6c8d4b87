"""The cross-entropy method (PlaNet, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.planners import ScoreFn, checked_scores, take
from worldmodel.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class CEM:
    """Refit the search distribution to the elites, `iterations` times; the plan is the last mean."""

    candidates: int
    iterations: int
    elites: int
    momentum: float = 0.0

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | OneHot,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        weights = torch.full((mean.shape[0], self.elites), 1.0 / self.elites, device=mean.device)
        for _ in range(self.iterations):
            candidates = proposal.sample(mean, std, self.candidates, generator)
            best = checked_scores(score_fn, candidates).topk(self.elites, 1).indices
            new_mean, std = proposal.refit(take(candidates, best), weights)
            mean = torch.lerp(new_mean, mean, self.momentum)
        return proposal.finish(mean)
