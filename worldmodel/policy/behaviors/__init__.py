"""Behaviors choose actions from model states.

    behavior = Class(parts)
    behavior.init(B) -> carry
    behavior.act(state, carry, is_first, mode, generator) -> (action, carry)

`mode` is "train", "eval", or "greedy": as "eval", but with the actor's mode even where
`actor.greedy` is false. `plans` is true for those that plan, which takes most of the time.
The fact `policy` of a behavior's `Settings` names the policy that is trained for it, one of
build.POLICIES; a behavior whose `Settings` state `plans` needs it only to help the planner.
One file each; registry.py names them, build.py imports them, the agent calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from worldmodel.config.schema import PlannerConfig
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.learned_policy import LearnedPolicy
from worldmodel.policy.planners.proposals import Box, OneHot
from worldmodel.spaces import ActionSpace, State

MEMORY = "memory/"  # before the names of what a plan score remembers, in the carry of its plans


class ScoreMaker(Protocol):
    """Makes the plan scores of states (B,...), and what they remember at first."""

    def __call__(
        self,
        model: WorldModel,
        state: State,
        generator: Generator | None,
        memory: State | None = None,
    ) -> Any: ...

    def start_memory(self, model: WorldModel, batch: int) -> State: ...


@dataclass(frozen=True)
class Planning:
    """How a behaviour plans: a planner, where its candidates come from, and what scores them."""

    planner: Any
    proposal: Box | OneHot
    make_score: ScoreMaker
    settings: PlannerConfig


@dataclass(frozen=True)
class BehaviorParts:
    """The parts that behaviours are built of."""

    model: WorldModel
    space: ActionSpace
    noise: float
    policy: LearnedPolicy | None  # where the configuration trains one
    planning: Planning
    settings: Any = None  # the behavior's section of the configuration, where it has one


def find_due(age: Tensor, is_first: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Which rows (B,) start anew, as their age has come to so many steps or an episode begins, and
    the ages after this step.
    """
    due = is_first.bool() | (age % most == 0)
    return due, torch.where(due, 1.0, age + 1)
