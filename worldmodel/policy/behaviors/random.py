"""Uniform actions, as a baseline of every comparison, and for data that no goal has chosen.

With `behavior.hold` K an action is kept for K steps. A point that is moved by such actions goes
straight for a while and so reaches far places, which K 1 hardly does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.config.ranges import Count
from worldmodel.policy.behaviors import BehaviorParts, find_due
from worldmodel.spaces import State


@dataclass(frozen=True)
class Settings:
    section = "behavior"

    hold: Count


class Random:
    plans = False

    def __init__(self, parts: BehaviorParts):
        self.space, self.hold = parts.space, parts.settings.hold

    def init(self, batch: int) -> State:
        """The carry is the action (B,A) that is kept, and for how long it was: age (B,)."""
        if self.hold == 1:
            return {}
        return {"action": torch.zeros(batch, self.space.size), "age": torch.zeros(batch)}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        drawn = self.space.random(len(is_first), generator)
        if self.hold == 1:
            return drawn, carry
        kept, age = (carry[k].to(drawn.device) for k in ("action", "age"))
        due, age = find_due(age, is_first.to(drawn.device), self.hold)
        action = torch.where(due.unsqueeze(-1), drawn, kept)
        return action, {"action": action, "age": age}
