"""Collect by an explorer, and be tested by the actor of the task (Plan2Explore)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from worldmodel.errors import UsageError
from worldmodel.policy.behaviors import BehaviorParts
from worldmodel.policy.behaviors.actor_critic import ActorPolicy
from worldmodel.policy.plan2explore import Plan2Explore
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    policy = "plan2explore"

    collect: Literal["explorer", "task"]

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if c.ensemble.size == 1:
            found.append(
                "behavior.name: plan2explore seeks an ensemble's disagreement; set ensemble.size, "
                "to 5 for example"
            )
        if c.critic.replay:
            found.append(
                f"critic.replay: {c.critic.replay} trains the critics on replayed rewards, and "
                "the explorer's are imagined; set it to 0"
            )
        return found


class Explore:
    """While collecting, whoever `plan2explore.collect` says acts; otherwise the task's actor."""

    plans = False

    def __init__(self, parts: BehaviorParts):
        if not isinstance(parts.policy, Plan2Explore):
            raise UsageError(
                "behavior.name: this run trained no explorer; plan2explore acts only in runs that "
                "were trained with it"
            )
        self.collect = parts.settings.collect
        self.explorer = ActorPolicy(replace(parts, policy=parts.policy.explorer))
        self.task = ActorPolicy(replace(parts, policy=parts.policy.task))

    def init(self, batch: int) -> State:
        return {}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        explores = mode == "train" and self.collect == "explorer"
        actor = self.explorer if explores else self.task
        return actor.act(state, carry, is_first, mode, generator)
