"""The actor at work: no planning, one small network a step."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.policy.action_distributions import legal
from worldmodel.policy.actor_critic import ActorCritic
from worldmodel.policy.behaviors.explore import explore
from worldmodel.spaces import ActionSpace, State


class ActorPolicy:
    """Samples while collecting, with noise on top where asked for; the distribution's mode or a
    sample otherwise.
    """

    plans = False

    def __init__(self, model: WorldModel, space: ActionSpace, policy: ActorCritic, noise: float):
        self.model, self.space, self.policy, self.noise = model, space, policy, noise

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
