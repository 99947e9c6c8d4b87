"""Policies as functions of states: constant actions, and random ones in between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldmodel.spaces import ActionSpace, State, count_states

Act = Callable[[State], Tensor]  # states (N,...) -> actions (N,A)
# By name: a function from a seed to a policy at the start of an episode.
Policies = dict[str, Callable[[int], Act]]
MAX_ACTIONS = 8  # constant actions in a list
BEHAVIOR_LABELS = {
    "actor_critic": "the actor",
    "dyna": "the actor",
    "plan2explore": "the task's actor",
    "guided": "the actor",
    "mpc": "the planner",
    "random": "random actions",
}


def make_constant_policy(action: Tensor) -> Callable[[int], Act]:
    """A policy that always takes the same action (A,)."""
    return lambda policy_seed: lambda state: action.expand(count_states(state), -1)


def make_noisy_policy(
    begin: Callable[[int], Act], share: float, space: ActionSpace
) -> Callable[[int], Act]:
    """A policy that takes a random action with this probability.

    All rollouts and the simulator use the same random draws, so that differences come from the
    model. The replaced action is computed all the same, because a planner warm-starts from its
    last plan.
    """

    def begin_noisy(policy_seed: int) -> Act:
        act, generator = begin(policy_seed), torch.Generator().manual_seed(policy_seed)

        def choose(state: State) -> Tensor:
            action, other = act(state), space.random(1, generator)
            is_random = float(torch.rand((), generator=generator)) < share
            return other.expand_as(action) if is_random else action

        return choose

    return begin_noisy


def list_constant_actions(space: ActionSpace) -> list[tuple[str, np.ndarray]]:
    """Constant actions: every choice of every group, or zero and both ends per dimension."""
    found: list[tuple[str, np.ndarray]] = []
    if not space.discrete:
        found.append(("nothing", np.zeros(space.size, np.float32)))
        names = (
            ["the action"] if space.size == 1 else [f"dimension {i}" for i in range(space.size)]
        )
        for i in range(space.size):
            for end in (-1.0, 1.0):
                action = np.zeros(space.size, np.float32)
                action[i] = end
                found.append((f"{names[i]} at {end:+.0f}", action))
        return found[:MAX_ACTIONS]
    for i, count in enumerate(space.groups):
        for choice in range(count):
            picks = [torch.tensor(choice if i == j else 0) for j in range(len(space.groups))]
            name = f"choice {choice}" if len(space.groups) == 1 else f"group {i}: choice {choice}"
            found.append((name, space.one_hot(picks).numpy()))
    return found[:MAX_ACTIONS]
