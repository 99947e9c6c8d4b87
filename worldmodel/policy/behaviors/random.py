"""Uniform actions, as a baseline of every comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.policy.behaviors import BehaviorParts
from worldmodel.spaces import State


class Random:
    plans = False

    def __init__(self, parts: BehaviorParts):
        self.space = parts.space

    def init(self, batch: int) -> State:
        return {}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        return self.space.random(len(is_first), generator), carry
