"""Predicted rewards along a plan, and the critic's value at its end."""

from __future__ import annotations

from torch import Tensor

from worldmodel.policy.plan_scores.reward import Reward, RewardProblem


class Settings:
    needs_critic = True
    is_control_problem = True


class RewardAndValue(Reward):
    """Adds the critic's value at the end of a plan to its predicted rewards."""

    def __call__(self, candidates: Tensor) -> Tensor:
        assert self.inputs.value is not None
        returns, feat, weight = self.sum_rewards(candidates)
        score = self.combine(returns + weight * self.inputs.value(feat))
        return score.view(candidates.shape[:2])

    def make_problem(self, horizon: int, control: float, copies: int = 1) -> RewardProblem:
        return RewardProblem(self, horizon, control, copies, self.inputs.value)
