"""Model-predictive path integral control over elites (TD-MPC's form)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from worldmodel.config.ranges import Candidates, Count, Positive, Range, Rounds
from worldmodel.policy.planners import ScoreFn, compute_scores, select_candidates
from worldmodel.policy.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class Settings:
    section = "planner"

    candidates: Candidates
    iterations: Rounds
    elites: Count
    temperature: Positive
    momentum: Annotated[float, Range(0, 0.999)]


class MPPI:
    """Refit to elites weighted by exp(score / temperature), scores scaled to unit spread so that
    temperature is one.

    The spread is taken over the elites; without scaling, the temperature would depend on the
    task's reward scale.
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
        for _ in range(settings.iterations):
            candidates = proposal.sample(mean, std, settings.candidates, generator)
            scores, best = compute_scores(score_fn, candidates).topk(settings.elites, 1)
            spread = scores.std(1, keepdim=True, correction=0).clamp(min=1e-6)
            weights = ((scores - scores[:, :1]) / (spread * settings.temperature)).softmax(1)
            new_mean, std = proposal.refit(select_candidates(candidates, best), weights)
            mean = torch.lerp(new_mean, mean, settings.momentum)
        return proposal.finish(mean)
