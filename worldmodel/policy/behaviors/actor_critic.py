"""Act by the actor: no planning, one small network per step."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.policy.action_distributions import clip_actions
from worldmodel.policy.behaviors import BehaviorParts
from worldmodel.policy.exploration_noise import add_exploration_noise
from worldmodel.spaces import State


class Settings:
    policy = "actor_critic"


class ActorPolicy:
    """Samples while collecting, with noise if there is any; otherwise takes the distribution's
    mode or a sample.
    """

    plans = False

    def __init__(self, parts: BehaviorParts):
        assert parts.policy is not None
        self.model, self.space, self.policy = parts.model, parts.space, parts.policy
        self.noise = parts.noise

    def init(self, batch: int) -> State:
        return {}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        dist = self.policy.choose(self.model.dynamics.features(state))
        if mode == "greedy" or (mode == "eval" and self.policy.greedy):
            return clip_actions(dist.mode()), carry
        action = clip_actions(dist.sample(generator))
        return (
            add_exploration_noise(action, self.space, self.noise, generator)
            if mode == "train"
            else action
        ), carry
