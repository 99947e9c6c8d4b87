"""What a plan is worth inside the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodel.model import WorldModel
from worldmodel.types import State


class RewardScore:
    """Sum of predicted rewards, weighted by the predicted chance of still being alive on arrival.

    `value`, from features (...,F) to (...), adds what is left to gain where the plan ends.
    """

    def __init__(
        self,
        model: WorldModel,
        state: State,
        discount: float,
        generator: torch.Generator | None,
        value: Callable[[Tensor], Tensor] | None = None,
    ):
        self.model, self.state, self.discount, self.generator, self.value = model, state, discount, generator, value

    def __call__(self, candidates: Tensor) -> Tensor:
        """(B,N,H,A) -> (B,N)."""
        batch, count, horizon, _ = candidates.shape
        start = {k: v.repeat_interleave(count, 0) for k, v in self.state.items()}
        walk = self.model.rssm.walk(start, horizon, self.generator)
        for actions in candidates.flatten(0, 1).unbind(1):
            walk.go(actions)
        feat = walk.arrived()
        reward, cont = self.model.outlook(feat)
        alive = torch.cat([torch.ones_like(cont[:1]), cont]).cumprod(0)
        weight = alive * self.discount ** torch.arange(horizon + 1, device=reward.device).unsqueeze(1)
        score = (weight[:-1] * reward).sum(0)
        if self.value is not None:
            score = score + weight[-1] * self.value(feat[-1])
        return score.view(batch, count)
