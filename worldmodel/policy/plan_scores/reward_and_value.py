"""Predicted rewards, and what the critic expects where a plan ends."""

from __future__ import annotations

from torch import Tensor

from worldmodel.policy.plan_scores.reward import Reward


class Settings:
    needs_critic = True


class RewardAndValue(Reward):
    """The critic closes the sum of rewards with what is left to gain."""

    def __call__(self, candidates: Tensor) -> Tensor:
        assert self.inputs.value is not None
        score, feat, weight = self.sum_rewards(candidates)
        return (score + weight * self.inputs.value(feat)).view(candidates.shape[:2])
