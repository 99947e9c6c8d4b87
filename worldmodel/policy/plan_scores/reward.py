"""The rewards that the model predicts along a plan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodel.model.derivatives import compute_jacobian
from worldmodel.policy.plan_scores import PlanScore
from worldmodel.policy.plan_scores.control_problem import ModelProblem


class Settings:
    is_control_problem = True


class Reward(PlanScore):
    """Discounted sum of predicted rewards, each weighted by the predicted probability that no
    earlier step ended the episode.
    """

    def __call__(self, candidates: Tensor) -> Tensor:
        returns, _, _ = self.sum_rewards(candidates)
        return self.combine(returns).view(candidates.shape[:2])

    def make_problem(self, horizon: int, control: float, copies: int = 1) -> RewardProblem:
        """The same score of the mean rollout, for planners that expand it."""
        return RewardProblem(self, horizon, control, copies)

    def combine(self, returns: Tensor) -> Tensor:
        """One score (B*N,) of each plan from the returns (P*B*N,) of its particles."""
        return self.inputs.particles.combine(self.model.dynamics, returns)

    def sum_rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of M = P*B*N rollouts of plans (B,N,H,A): returns (M,), and at their ends features (M,F)
        and the weight (M,) of later rewards.
        """
        count, horizon = candidates.shape[1:3]
        dynamics, particles = self.model.dynamics, self.inputs.particles
        start = particles.repeat_states(dynamics, self.state, count)
        rollout = dynamics.start_rollout(start, horizon, self.generator)
        plans, first = particles.repeat_plans(dynamics, candidates.flatten(0, 1)), rollout.features
        for actions in plans.unbind(1):
            rollout.step(actions)
        feat = rollout.features_after()
        reward, cont = self.model.predict_for_planning(feat)
        if self.inputs.doubt:
            reward = reward - self.measure_doubt(first, feat, plans.transpose(0, 1))
        alive = torch.cat([torch.ones_like(cont[:1]), cont]).cumprod(0)
        steps = torch.arange(horizon + 1, device=reward.device).unsqueeze(1)
        weight = alive * self.inputs.discount**steps
        return (weight[:-1] * reward).sum(0), feat[-1], weight[-1]


class RewardProblem(ModelProblem):
    """A state is the features, and the weight that the reward of the next step has.

    w' = gamma c(x') w          c: probability of continuing, 1 if the model has seen no end
    l = -w r(x'), less w' V(x') in the last step, if a critic's value ends plans
    """

    def __init__(
        self,
        score: PlanScore,
        horizon: int,
        control: float,
        copies: int,
        value: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(score.model, score.state, horizon, control, copies)
        self.discount, self.doubt, self.value = score.inputs.discount, score.inputs.doubt, value
        self.start = torch.cat([self.start, torch.ones_like(self.start[:, :1])], -1)

    def advance(
        self, states: Tensor, actions: Tensor, time: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        (feat, action), weight = self.narrow(states[..., :-1], actions), states[..., -1]
        after = self.dynamics.predict_features(feat, action)
        reward = self.model.reward.mean(after)
        if self.doubt:
            reward = reward - self.doubt * self.model.measure_disagreement(feat, action)
        cost, left = -weight * reward, weight * self.discount * self.find_continuation(after)
        if self.value is not None:
            is_last = torch.as_tensor(time, device=weight.device) == self.horizon - 1
            cost = cost - torch.where(is_last, left * self.value(after), 0.0)
        return torch.cat([after.double(), left.double().unsqueeze(-1)], -1), cost

    def find_continuation(self, after: Tensor) -> Tensor:
        """The probability (...) that the step to features (...,F) ended nothing."""
        return self.model.cont.mean(after) if self.model.ends else torch.ones_like(after[..., 0])

    def linearize(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of the features, and by the chain rule those of the weight."""
        feat, weight = states[..., :-1], states[..., -1]
        by_feat, by_action = super().linearize(feat, actions)
        with torch.autocast(states.device.type, enabled=False):
            after = self.dynamics.predict_features(*self.narrow(feat, actions))
            slope = compute_jacobian(lambda x: self.find_continuation(x).unsqueeze(-1), after)
            left = self.discount * self.find_continuation(after).double()
        slope = self.discount * weight[..., None, None] * slope.double()  # (H,B,1,F)
        none = torch.zeros_like(by_feat[..., :1])
        by_weight = torch.cat([none, left[..., None, None]], -2)
        by_state = torch.cat([torch.cat([by_feat, slope @ by_feat], -2), by_weight], -1)
        return by_state, torch.cat([by_action, slope @ by_action], -2)
