"""Plan scores: the worth of candidate plans by the model, made anew for each state.

    Score(model, state, generator, inputs)      states with leaves (B,...)
    score(candidates) -> scores                 (B,N,H,A) -> (B,N), higher is better

A score may remember something from step to step of an episode, leaves (B,...): `start_memory`
gives it at the first step, `advance_memory` after each action, and the next score is given it.

Planners are handed scores and never see the model. One file per score; registry.py names them,
build.py imports them, the behavior `mpc` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.policy.goals import Goal, PixelGoal
from worldmodel.policy.plan_scores.particles import Particles
from worldmodel.spaces import State


@dataclass(frozen=True)
class ScoreInputs:
    """What a run gives every score; a score's `Settings` state which of them it needs."""

    discount: float = 1.0
    particles: Particles = Particles()
    doubt: float = 0.0  # what a unit of disagreement of one-step heads costs
    settings: Any = None  # the score's section of the configuration, where it has one
    # Where a score states needs_critic: features (...,F) to values (...).
    value: Callable[[Tensor], Tensor] | None = None
    # Where a score states needs_goal: loads the goal, once.
    goal: Callable[[], Goal | PixelGoal] | None = None


class PlanScore:
    """Scores plans from states (B,...)."""

    def __init__(
        self,
        model: WorldModel,
        state: State,
        generator: torch.Generator | None,
        inputs: ScoreInputs,
        memory: State | None = None,
    ):
        self.model, self.state, self.generator, self.inputs = model, state, generator, inputs
        self.memory: State = memory or {}

    @staticmethod
    def start_memory(model: WorldModel, inputs: ScoreInputs, batch: int) -> State:
        """What it remembers at the first step of B episodes."""
        return {}

    def advance_memory(self, action: Tensor) -> State:
        """What it remembers after an action (B,A)."""
        return self.memory

    def __call__(self, candidates: Tensor) -> Tensor:
        """(B,N,H,A) -> (B,N)."""
        raise NotImplementedError

    def measure_doubt(self, start: Tensor, after: Tensor, actions: Tensor) -> Tensor:
        """What the disagreement of one-step heads costs at each step of M rollouts: (H,M).

        Features are those at their start (M,F) and (H,M,F) after actions (H,M,A).
        """
        found = self.model.measure_rollout_disagreement(start, after, actions)
        return self.inputs.doubt * found

    def score_with_gradient(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,N) and their gradient (B,N,H,A) by the candidates, zero where no score depends
        on them smoothly, as a constant reward.
        """
        with torch.enable_grad():
            plans = candidates.detach().requires_grad_()
            scores = self(plans)
            if not scores.requires_grad:
                return scores, torch.zeros_like(plans)
            # Plans are independent, so the gradient of the sum holds that of each score.
            (gradient,) = torch.autograd.grad(scores.sum(), plans, allow_unused=True)
        return scores.detach(), torch.zeros_like(plans) if gradient is None else gradient


@dataclass(frozen=True)
class ScoreMaker:
    """Makes the scores of one kind for the states of each step."""

    kind: type[PlanScore]
    inputs: ScoreInputs

    def __call__(
        self,
        model: WorldModel,
        state: State,
        generator: torch.Generator | None,
        memory: State | None = None,
    ) -> PlanScore:
        return self.kind(model, state, generator, self.inputs, memory)

    def start_memory(self, model: WorldModel, batch: int) -> State:
        return self.kind.start_memory(model, self.inputs, batch)
