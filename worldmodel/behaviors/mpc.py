"""Model-predictive control: plan in the latent space at every step, do the first action."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model import WorldModel
from worldmodel.planners.proposals import Box, OneHot
from worldmodel.scores import RewardScore
from worldmodel.types import ActionSpace, State


class MPC:
    """Plans with any planner; noise is added while collecting."""

    def __init__(
        self,
        model: WorldModel,
        space: ActionSpace,
        planner,
        proposal: Box | OneHot,
        *,
        horizon: int,
        discount: float,
        warm_start: bool,
        noise: float,
    ):
        self.model, self.space, self.planner, self.proposal = model, space, planner, proposal
        self.horizon, self.discount, self.warm_start, self.noise = horizon, discount, warm_start, noise

    def init(self, batch: int) -> State:
        """The carry is the plan to start from (B,H,A)."""
        return {"plan": self.proposal.start(batch, self.horizon, self.space.size)[0]}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        device = state["deter"].device
        fresh, std = (x.to(device) for x in self.proposal.start(len(is_first), self.horizon, self.space.size))
        mean = fresh
        if self.warm_start:
            old = self.proposal.resume(carry["plan"].to(device), fresh)
            mean = torch.where(is_first[:, None, None], fresh, old)
        score = RewardScore(self.model, state, self.discount, generator)
        plan = self.planner(score, mean, std, self.proposal, generator)
        action = self._explore(plan[:, 0], generator) if mode == "train" else plan[:, 0]
        return action, {"plan": torch.cat([plan[:, 1:], fresh[:, -1:]], 1)}

    def _explore(self, action: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian noise within the box; for discrete actions, a random one with probability `noise`."""
        if not self.space.discrete:
            noise = torch.randn(action.shape, generator=generator, device=action.device)
            return (action + self.noise * noise).clamp(-1, 1)
        other = self.space.random(len(action), generator)
        swap = torch.rand(len(action), 1, generator=generator, device=action.device) < self.noise
        return torch.where(swap, other, action)
