"""Pixels that a user has clicked, and the planner that moves them to their goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from worldmodel.errors import UsageError
from worldmodel.evaluation.play.parallel_rollouts import ParallelRollouts
from worldmodel.policy.behaviors import MEMORY
from worldmodel.spaces import State, add_prefix, map_state
from worldmodel.system.runtime import autocast

REAL, IMAGINED = "pixel", "pixel_imagined"  # the planner as a driver, by what it sees
LABELS = {
    REAL: "planner to the clicked goal, on real pictures",
    IMAGINED: "planner to the clicked goal, on imagined pictures",
}
MOST = 4  # pixels

Pixels = Sequence[Sequence[int]]


class PixelAim:
    """Designated pixels of the picture at one step, their goals, and the behavior that plans.

    `make_behavior(pixels, goals)` makes it. Where the pixels are at a step is the memory of its
    plan score, for the first of the parallel rollouts.
    """

    def __init__(self, rollouts: ParallelRollouts, make_behavior: Callable[[Pixels, Pixels], Any]):
        self.rollouts, self.make_behavior = rollouts, make_behavior
        self.behavior: Any = None
        self.pixels: list[list[int]] = []
        self.goals: list[list[int]] = []

    def set(self, pixels: Pixels, goals: Pixels) -> None:
        """Aim at other goals, or with no pixels at none."""
        if len(pixels) != len(goals) or len(pixels) > MOST:
            raise UsageError(f"aim: give up to {MOST} pixels, and a goal for each of them")
        self.behavior = self.make_behavior(pixels, goals) if pixels else None
        self.pixels, self.goals = [list(p) for p in pixels], [list(p) for p in goals]

    @property
    def is_set(self) -> bool:
        return self.behavior is not None

    def begin(self, state: State) -> tuple[State, State]:
        """The states (K,...), whose pictures now count as their first, and the memory there."""
        model = self.rollouts.model
        return model.dynamics.begin_here(state), self.behavior.make_score.start_memory(model, 1)

    @torch.no_grad()
    def advance(self, state: State, memory: State, action: np.ndarray, seed: int) -> State:
        """Where the pixels are expected after an action (A,) at states (K,...)."""
        agent, first = self.rollouts.agent, map_state(state, lambda v: v[:1])
        vector = torch.from_numpy(action)[None].to(agent.device)
        with autocast(agent.device, agent.precision):
            score = self.behavior.make_score(
                self.rollouts.model, first, self.rollouts.make_generator(seed), memory
            )
            return score.advance_memory(vector)

    def make_carry(self, memory: State, carry: State | None) -> State:
        """The behavior's carry where the pixels are, from that of the step before, if any."""
        kept = self.behavior.init(1) if carry is None else carry
        return {**kept, **add_prefix(memory, MEMORY)}

    def locate(self, memory: State) -> np.ndarray:
        """Where the pixels are expected (H,W) uint8, the most probable place of each 255."""
        ((height, width, _),) = self.rollouts.model.observation.pictures.values()
        spots = memory["now"][0]
        shown = (spots / spots.amax(-1, keepdim=True).clamp(min=1e-12)).amax(0)
        return (255 * shown).round().byte().view(height, width).cpu().numpy()
