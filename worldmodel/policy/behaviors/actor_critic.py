"""The actor at work: no planning, one small network a step."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.policy.action_distributions import legal
from worldmodel.policy.behaviors import BehaviorParts
from worldmodel.policy.behaviors.explore import explore
from worldmodel.spaces import State


class ActorPolicy:
    """Samples while collecting, with noise on top where asked for; the distribution's mode or a
    sample otherwise.
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
        dist = self.policy.actor(self.model.dynamics.features(state))
        if mode != "train" and self.policy.actor_config.greedy:
            return legal(dist.mode()), carry
        action = legal(dist.sample(generator))
        return (
            explore(action, self.space, self.noise, generator) if mode == "train" else action
        ), carry
