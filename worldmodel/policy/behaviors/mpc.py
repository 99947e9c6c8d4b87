"""Model-predictive control: plan in the latent space at every step, do the first action."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodel.kernels.planning_step import settled
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.actor_critic import ActorCritic
from worldmodel.policy.behaviors.explore import explore
from worldmodel.policy.goals import Goal
from worldmodel.policy.plan_scores import GoalScore, RewardScore
from worldmodel.policy.planners.proposals import Box, OneHot, Seeded
from worldmodel.spaces import ActionSpace, State


class MPC:
    """Plans with any planner; noise is added while collecting.

    With an actor-critic, its critic may close the plans and its actor propose some of them. With a
    goal, which is asked for when it is first needed, plans are scored by how near they come to it
    instead of by rewards.
    """

    plans = True

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
        policy: ActorCritic | None = None,
        closed_by_critic: bool = False,
        proposals: int = 0,
        goal: Callable[[], Goal] | None = None,
    ):
        self.model, self.space, self.planner, self.proposal = model, space, planner, proposal
        self.horizon, self.discount, self.warm_start, self.noise = (
            horizon,
            discount,
            warm_start,
            noise,
        )
        self.policy, self.proposals, self.goal = policy, proposals, goal
        self.critic = policy if closed_by_critic else None

    def init(self, batch: int) -> State:
        """The carry is the plan to start from (B,H,A)."""
        return {"plan": self.proposal.start(batch, self.horizon, self.space.size)[0]}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        plan = self.plan(state, carry, is_first, generator)
        action = (
            explore(plan[:, 0], self.space, self.noise, generator)
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
        score = self._score(state, generator)
        proposal: Box | OneHot | Seeded = self.proposal
        with settled():
            if self.policy is not None and self.proposals:
                drafts = self.policy.plans(
                    self.model, state, self.proposals, self.horizon, generator
                )
                proposal = Seeded(self.proposal, drafts)
            return self.planner(score, mean, std, proposal, generator)

    def _start(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Where a fresh search begins, for as many as a tensor (B,...) holds and on its device."""
        mean, std = self.proposal.start(len(like), self.horizon, self.space.size)
        return mean.to(like.device), std.to(like.device)

    def _score(self, state: State, generator: torch.Generator) -> GoalScore | RewardScore:
        """What plans from these states are worth."""
        if self.goal is not None:
            return GoalScore(self.model, state, self.goal(), generator)
        value = self.critic.value if self.critic is not None else None
        return RewardScore(self.model, state, self.discount, generator, value)
