"""How near a plan comes to a goal."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.policy.plan_scores import PlanScore, ScoreInputs
from worldmodel.spaces import State, map_state


class Settings:
    needs_goal = True


class GoalDistance(PlanScore):
    """Minus the distance to the goal, at each step of a plan on average or at its end."""

    def __init__(
        self,
        model: WorldModel,
        state: State,
        generator: torch.Generator | None,
        inputs: ScoreInputs,
    ):
        super().__init__(model, state, generator, inputs)
        assert inputs.goal is not None
        self.goal = inputs.goal()
        device = next(iter(state.values())).device
        self.embed = model.encode(
            {k: v.to(device) for k, v in self.goal.seen.items()}
        )  # (1 or B,1,E)

    def __call__(self, candidates: Tensor) -> Tensor:
        batch, count = candidates.shape[:2]
        dynamics, particles = self.model.dynamics, self.inputs.particles
        start = particles.repeat_states(dynamics, self.state, count)
        plans = particles.repeat_plans(dynamics, candidates.flatten(0, 1))
        states = imagined = dynamics.imagine(start, plans, self.generator)
        if self.goal.at == "end":
            states = map_state(states, lambda v: v[:, -1:])
        embed = self.embed if len(self.embed) == 1 else self.embed.repeat_interleave(count, 0)
        embed = particles.repeat_plans(dynamics, embed) if len(embed) > 1 else embed
        distance = self.model.measure_goal_distance(states, embed, self.goal.distance)
        score = -distance.mean(1)
        if self.inputs.doubt:
            first, after = dynamics.features(start), dynamics.features(imagined).transpose(0, 1)
            score = score - self.measure_doubt(first, after, plans.transpose(0, 1)).sum(0)
        return particles.combine(dynamics, score).view(batch, count)
