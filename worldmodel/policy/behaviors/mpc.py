"""Model-predictive control: plan at every step from the last plan, shifted; take one action."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.kernels.planning_step import fixed_weights
from worldmodel.policy.behaviors import BehaviorParts
from worldmodel.policy.exploration_noise import add_exploration_noise
from worldmodel.policy.planners.proposals import Box, OneHot, SeededProposal
from worldmodel.spaces import State


class Settings:
    plans = True
    policy = "actor_critic"


class MPC:
    """Plans with any planner by any score; noise is added while collecting.

    With a learned policy, its actor may propose some of the candidates.
    """

    plans = True

    def __init__(self, parts: BehaviorParts):
        planning, p = parts.planning, parts.planning.settings
        self.model, self.space, self.noise = parts.model, parts.space, parts.noise
        self.planner, self.proposal = planning.planner, planning.proposal
        self.make_score = planning.make_score
        self.horizon, self.warm_start = p.horizon, p.warm_start
        self.policy, self.proposals = parts.policy, p.proposals

    def init(self, batch: int) -> State:
        """The carry is the plan to start from (B,H,A)."""
        return {"plan": self.proposal.start(batch, self.horizon, self.space.size)[0]}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        plan = self.plan(state, carry, is_first, generator)
        action = (
            add_exploration_noise(plan[:, 0], self.space, self.noise, generator)
            if mode == "train"
            else plan[:, 0]
        )
        last = self._start(plan)[0][:, -1:]
        return action, {"plan": torch.cat([plan[:, 1:], last], 1)}

    def plan(
        self, state: State, carry: State, is_first: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The whole plan (B,H,A) of which the first action is done."""
        mean, std = self._start(is_first)
        if self.warm_start:
            old = self.proposal.resume(carry["plan"].to(mean.device), mean)
            mean = torch.where(is_first[:, None, None], mean, old)
        score = self.make_score(self.model, state, generator)
        proposal: Box | OneHot | SeededProposal = self.proposal
        with fixed_weights():
            if self.policy is not None and self.proposals:
                drafts = self.policy.propose_plans(
                    self.model, state, self.proposals, self.horizon, generator
                )
                proposal = SeededProposal(self.proposal, drafts)
            return self.planner(score, mean, std, proposal, generator)

    def _start(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of a fresh search, with the batch size and device of a tensor (B,...)."""
        mean, std = self.proposal.start(len(like), self.horizon, self.space.size)
        return mean.to(like.device), std.to(like.device)
