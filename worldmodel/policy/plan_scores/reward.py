"""The rewards that the model predicts along a plan."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.policy.plan_scores import PlanScore


class Reward(PlanScore):
    """Discounted sum of predicted rewards, each weighted by the predicted probability that no
    earlier step ended the episode.
    """

    def __call__(self, candidates: Tensor) -> Tensor:
        returns, _, _ = self.sum_rewards(candidates)
        return self.combine(returns).view(candidates.shape[:2])

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
