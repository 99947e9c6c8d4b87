"""What a plan is worth inside the model."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model import WorldModel
from worldmodel.types import State


class RewardScore:
    """Sum of predicted rewards, weighted by the predicted chance of still being alive on arrival."""

    def __init__(self, model: WorldModel, state: State, discount: float, generator: torch.Generator | None):
        self.model, self.state, self.discount, self.generator = model, state, discount, generator

    def __call__(self, candidates: Tensor) -> Tensor:
        """(B,N,H,A) -> (B,N)."""
        batch, count, horizon, _ = candidates.shape
        start = {k: v.repeat_interleave(count, 0) for k, v in self.state.items()}
        states = self.model.rssm.imagine(start, candidates.flatten(0, 1), self.generator)
        reward, cont = self.model.predict(states)
        alive = torch.cat([torch.ones_like(cont[:, :1]), cont[:, :-1]], 1).cumprod(1)
        weight = alive * self.discount ** torch.arange(horizon, device=reward.device)
        return (weight * reward).sum(1).view(batch, count)
