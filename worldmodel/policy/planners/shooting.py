"""Random shooting: draw once, keep the best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.policy.planners import ScoreFn, checked_scores, take
from worldmodel.policy.planners.proposals import Box, OneHot


@dataclass(frozen=True)
class Shooting:
    """Evenly drawn candidates; the plan is the best of them."""

    candidates: int

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | OneHot,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        candidates = proposal.uniform(mean, self.candidates, generator)
        best = checked_scores(score_fn, candidates).argmax(1, keepdim=True)
        return take(candidates, best).squeeze(1)
