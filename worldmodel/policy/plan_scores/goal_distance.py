"""How near a plan comes to a goal."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model.derivatives import compute_jacobian
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.goals import Goal
from worldmodel.policy.plan_scores import PlanScore, ScoreInputs
from worldmodel.policy.plan_scores.control_problem import ModelProblem
from worldmodel.spaces import State, map_state


class Settings:
    needs_goal = True
    is_control_problem = True


class GoalDistance(PlanScore):
    """Minus the distance to the goal, at each step of a plan on average or at its end."""

    def __init__(
        self,
        model: WorldModel,
        state: State,
        generator: torch.Generator | None,
        inputs: ScoreInputs,
        memory: State | None = None,
    ):
        super().__init__(model, state, generator, inputs, memory)
        assert inputs.goal is not None
        goal = inputs.goal()
        assert isinstance(goal, Goal)
        self.goal = goal
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

    def make_problem(self, horizon: int, control: float, copies: int = 1) -> GoalProblem:
        """The same score of the mean rollout, for planners that expand it."""
        return GoalProblem(self, horizon, control, copies)


class GoalProblem(ModelProblem):
    """A state is the features; each step costs its share of the mean distance."""

    def __init__(self, score: GoalDistance, horizon: int, control: float, copies: int):
        super().__init__(score.model, score.state, horizon, control, copies)
        self.goal, self.doubt = score.goal, score.inputs.doubt
        embed = score.embed.squeeze(1).float()
        self.embed = embed if len(embed) == 1 else embed.repeat(copies, 1)  # (1 or B,E)

    def advance(
        self, states: Tensor, actions: Tensor, time: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        feat, action = self.narrow(states, actions)
        after = self.dynamics.predict_state(feat, action)
        distance = self.model.measure_goal_distance(after, self.embed, self.goal.distance)
        cost = self.share(time, states) * distance
        if self.doubt:
            cost = cost + self.doubt * self.model.measure_disagreement(feat, action)
        return self.dynamics.features(after), cost

    def share(self, time: int | Tensor, like: Tensor) -> Tensor:
        """The weight of the distance after step number `time`."""
        if self.goal.at == "end":
            return (torch.as_tensor(time, device=like.device) == self.horizon - 1).double()
        return torch.full((), 1 / self.horizon, dtype=torch.float64, device=like.device)

    def expand_cost(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Gauss-Newton where the distance is a square |e|^2: its Hessian is 2 J'J, of J = de.

        e is the gap between the means of prior and posterior.
        """
        if self.goal.distance != "belief" or self.doubt:
            return super().expand_cost(states, actions)
        size = states.shape[-1]

        def find_gap(rows: Tensor) -> Tensor:
            after = self.dynamics.predict_state(*self.narrow(rows[..., :size], rows[..., size:]))
            return self.model.measure_goal_gap(after, self.embed)

        rows = torch.cat([states, actions], -1)
        with torch.autocast(states.device.type, enabled=False):
            gap, jacobian = find_gap(rows).double(), compute_jacobian(find_gap, rows).double()
        share = self.share(self.list_times(states), states)[..., None]
        gradient = 2 * share * (jacobian.mT @ gap.unsqueeze(-1)).squeeze(-1)
        hessian = 2 * share[..., None] * jacobian.mT @ jacobian
        gradient[..., size:] += 2 * self.control * actions
        eye = torch.eye(actions.shape[-1], dtype=actions.dtype, device=actions.device)
        hessian[..., size:, size:] += 2 * self.control * eye
        return gradient, hessian
