"""Model-predictive path integral control over elites (TD-MPC's form)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.policy.planners import ScoreFn, checked_scores, take
from worldmodel.policy.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class MPPI:
    """Refit to elites weighted by exp(score / temperature), scores scaled to unit spread so that
    temperature is one.

    The spread is taken over the elites; without scaling, the temperature would depend on the
    task's reward scale.
    """

    candidates: int
    iterations: int
    elites: int
    temperature: float
    momentum: float = 0.0

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | OneHot,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        for _ in range(self.iterations):
            candidates = proposal.sample(mean, std, self.candidates, generator)
            scores, best = checked_scores(score_fn, candidates).topk(self.elites, 1)
            spread = scores.std(1, keepdim=True, correction=0).clamp(min=1e-6)
            weights = ((scores - scores[:, :1]) / (spread * self.temperature)).softmax(1)
            new_mean, std = proposal.refit(take(candidates, best), weights)
            mean = torch.lerp(new_mean, mean, self.momentum)
        return proposal.finish(mean)
