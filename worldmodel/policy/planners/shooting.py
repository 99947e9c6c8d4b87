"""Random shooting: draw once, keep the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.config.ranges import Candidates
from worldmodel.policy.planners import ScoreFn, compute_scores, select_candidates
from worldmodel.policy.planners.proposals import Box, OneHot

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    section = "planner"

    candidates: Candidates

    def contradictions(self, c: Config) -> list[str]:
        if c.planner.proposals:
            return ["planner.proposals: shooting has no refits to seed; use cem or mppi"]
        return []


class Shooting:
    """Uniform candidates; the plan is the best of them."""

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
        candidates = proposal.sample_uniform(mean, self.settings.candidates, generator)
        best = compute_scores(score_fn, candidates).argmax(1, keepdim=True)
        return select_candidates(candidates, best).squeeze(1)
