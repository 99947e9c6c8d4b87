"""What a plan is worth inside the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.policy.goals import Goal
from worldmodel.spaces import State, map_state


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
        self.model, self.state, self.discount, self.generator, self.value = (
            model,
            state,
            discount,
            generator,
            value,
        )

    def __call__(self, candidates: Tensor) -> Tensor:
        """(B,N,H,A) -> (B,N)."""
        batch, count, horizon, _ = candidates.shape
        start = map_state(self.state, lambda v: v.repeat_interleave(count, 0))
        rollout = self.model.dynamics.start_rollout(start, horizon, self.generator)
        for actions in candidates.flatten(0, 1).unbind(1):
            rollout.step(actions)
        feat = rollout.features_after()
        reward, cont = self.model.outlook(feat)
        alive = torch.cat([torch.ones_like(cont[:1]), cont]).cumprod(0)
        weight = alive * self.discount ** torch.arange(
            horizon + 1, device=reward.device
        ).unsqueeze(1)
        score = (weight[:-1] * reward).sum(0)
        if self.value is not None:
            score = score + weight[-1] * self.value(feat[-1])
        return score.view(batch, count)


class GoalScore:
    """How near a plan comes to what a goal shows, at each of its steps on average or at
    its end.
    """

    def __init__(
        self, model: WorldModel, state: State, goal: Goal, generator: torch.Generator | None
    ):
        self.model, self.state, self.goal, self.generator = model, state, goal, generator
        device = next(iter(state.values())).device
        self.embed = model.encode({k: v.to(device) for k, v in goal.seen.items()})  # (1 or B,1,E)

    def __call__(self, candidates: Tensor) -> Tensor:
        """(B,N,H,A) -> (B,N)."""
        batch, count = candidates.shape[:2]
        start = map_state(self.state, lambda v: v.repeat_interleave(count, 0))
        states = self.model.dynamics.imagine(start, candidates.flatten(0, 1), self.generator)
        if self.goal.at == "end":
            states = map_state(states, lambda v: v[:, -1:])
        embed = self.embed if len(self.embed) == 1 else self.embed.repeat_interleave(count, 0)
        return (
            -self.model.goal_distance(states, embed, self.goal.distance).mean(1).view(batch, count)
        )
