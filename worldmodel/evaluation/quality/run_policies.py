"""The policies of a saved run: its behaviors, noisy versions of them, constant actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.config.loading import ConfigError
from worldmodel.config.schema import plans_to_goal
from worldmodel.errors import RunError
from worldmodel.evaluation.quality.policy_returns import (
    Act,
    Policies,
    make_constant_policy,
    make_noisy_policy,
)
from worldmodel.saved_run import Run
from worldmodel.spaces import ActionSpace, State, count_states
from worldmodel.system.runtime import autocast, make_generator

CANDIDATE_SHARE = 0.25  # of the planner's candidates: it plans at every step of every rollout
NOISE = {"1/3 random": 1 / 3, "2/3 random": 2 / 3}
MAX_CONSTANT = 4  # constant actions among the policies
MAX_ACTIONS = 8  # constant actions in a list
BEHAVIOR_LABELS = {"actor_critic": "the actor", "mpc": "the planner", "random": "random actions"}


def make_policies(run: Run, seed: int) -> Policies:
    """At least five policies: actor, planner, a noisy version of one, random, constant."""
    found: Policies = {}
    if run.policy is not None:
        found["actor"] = _make_policy(
            run.apply_overrides([("behavior.name", "actor_critic")]), seed
        )
    planning = _shrink_planner(run)
    if planning is not None:
        found["planner"] = _make_policy(planning, seed)
    constant = {
        f"always {name}": make_constant_policy(torch.from_numpy(action))
        for name, action in list_constant_actions(run.action_space)[:MAX_CONSTANT]
    }
    guide, begin = list(found.items())[0] if found else list(constant.items())[-1]
    for name, share in NOISE.items():
        found[f"{guide}, {name}"] = make_noisy_policy(begin, share, run.action_space)
    found["random"] = make_noisy_policy(next(iter(constant.values())), 1, run.action_space)
    return found | constant


def _shrink_planner(run: Run) -> Run | None:
    """The run with a smaller planner, or None if it has none that plans for reward."""
    p = run.config.planner
    if plans_to_goal(run.config):
        return None
    count = max(4, round(p.candidates * CANDIDATE_SHARE))
    keys = {
        "candidates": count,
        "elites": min(max(2, round(p.elites * CANDIDATE_SHARE)), count // 2),
        "proposals": min(p.proposals, max(1, round(p.proposals * CANDIDATE_SHARE))),
    }
    try:
        return run.apply_overrides(
            [("behavior.name", "mpc"), *((f"planner.{k}", str(v)) for k, v in keys.items())]
        )
    except RunError:
        return None


def _make_policy(run: Run, seed: int) -> Any:
    """A run's greedy behavior as a policy, in the precision in which the run acts."""
    behavior, device = run.agent.behavior, run.agent.device

    def begin(policy_seed: int) -> Act:
        generator, carry = make_generator(seed, 15, policy_seed, device=device.type), None

        @torch.no_grad()
        def act(state: State) -> Tensor:
            nonlocal carry
            count = count_states(state)
            fresh = torch.full((count,), carry is None, device=device)
            with autocast(device, run.agent.precision):
                action, carry = behavior.act(
                    state,
                    carry if carry is not None else behavior.init(count),
                    fresh,
                    "eval",
                    generator,
                )
            return action.float().cpu()

        return act

    return begin


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


def make_behaviors(run: Run) -> tuple[dict[str, Any], list[str]]:
    """The behaviors that the run can use, its own first, and a line for each that it cannot."""
    own = run.config.behavior.name
    found: dict[str, Any] = {own: run.agent.behavior}
    left_out = []
    for name in (n for n in BEHAVIOR_LABELS if n != own):
        try:
            found[name] = run.apply_overrides([("behavior.name", name)]).agent.behavior
        except (RunError, ConfigError):
            left_out.append(
                f"{BEHAVIOR_LABELS[name]} cannot act: this run has no actor and no critic"
            )
    return found, left_out
