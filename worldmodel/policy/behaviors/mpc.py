"""Model-predictive control: plan at every step from the last plan, shifted; take one action.

With `behavior.replan` K it executes K steps of each plan, if it has so many, with `plan` all of
them, open loop. What a plan score remembers from step to step is kept with the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from worldmodel.config.ranges import Count
from worldmodel.kernels.packing import fixed_weights
from worldmodel.policy.behaviors import MEMORY, BehaviorParts, find_due
from worldmodel.policy.exploration_noise import add_exploration_noise
from worldmodel.policy.planners.proposals import Box, OneHot, SeededProposal
from worldmodel.spaces import State, add_prefix, map_state, select_prefix


@dataclass(frozen=True)
class Settings:
    section = "behavior"
    plans = True
    policy = "actor_critic"

    replan: Count | Literal["plan"]


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
        replan = parts.settings.replan
        self.replan = p.horizon if replan == "plan" else min(replan, p.horizon)

    def init(self, batch: int) -> State:
        """The carry is the plan to go on with (B,H,A), the score's memory, and where plans last,
        their age (B,).
        """
        plan = self.proposal.start(batch, self.horizon, self.space.size)[0]
        memory = add_prefix(self.make_score.start_memory(self.model, batch), MEMORY)
        age = {"age": torch.zeros(batch)} if self.replan > 1 else {}
        return {"plan": plan, **memory, **age}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        aged: State = {}
        carry = self._restart_memory(carry, is_first)
        if self.replan == 1:
            plan = self.plan(state, carry, is_first, generator)
        else:
            plan, aged = self._renew_plans(state, carry, is_first, generator)
        action = (
            add_exploration_noise(plan[:, 0], self.space, self.noise, generator)
            if mode == "train"
            else plan[:, 0]
        )
        last = self._start(plan)[0][:, -1:]
        memory = self._advance_memory(state, carry, action, generator)
        return action, {"plan": torch.cat([plan[:, 1:], last], 1), **memory, **aged}

    def _restart_memory(self, carry: State, is_first: Tensor) -> State:
        """The carry, with the score's memory as it begins where an episode does."""
        memory = select_prefix(carry, MEMORY)
        if not memory:
            return carry
        fresh = self.make_score.start_memory(self.model, len(is_first))
        renewed = {}
        for key, value in memory.items():
            here, begin = value.to(is_first.device), is_first.bool()
            begin = begin.view(-1, *[1] * (here.dim() - 1))
            renewed[key] = torch.where(begin, fresh[key].to(here), here)
        return {**carry, **add_prefix(renewed, MEMORY)}

    def _advance_memory(
        self, state: State, carry: State, action: Tensor, generator: torch.Generator
    ) -> State:
        """What the score remembers after the action (B,A), as entries of the carry."""
        memory = select_prefix(carry, MEMORY)
        if not memory:
            return {}
        score = self.make_score(self.model, state, generator, memory)
        return add_prefix(score.advance_memory(action), MEMORY)

    def _renew_plans(
        self, state: State, carry: State, is_first: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        """The plans (B,H,A) to go on with, of which those that are used up are made anew."""
        plan, age = (carry[k].to(is_first.device) for k in ("plan", "age"))
        due, age = find_due(age, is_first, self.replan)
        if due.any():
            rows = due.nonzero().squeeze(1)
            own, kept = (
                map_state(s, lambda v: v.to(plan.device)[rows])
                for s in (state, {k: v for k, v in carry.items() if k != "age"})
            )
            made = self.plan(own, kept, is_first[rows], generator)
            plan = plan.index_copy(0, rows, made)
        return plan, {"age": age}

    def plan(
        self, state: State, carry: State, is_first: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The whole plan (B,H,A) of which the first action is done."""
        mean, std = self._start(is_first)
        if self.warm_start:
            old = self.proposal.resume(carry["plan"].to(mean.device), mean)
            mean = torch.where(is_first[:, None, None], mean, old)
        score = self.make_score(self.model, state, generator, select_prefix(carry, MEMORY))
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
