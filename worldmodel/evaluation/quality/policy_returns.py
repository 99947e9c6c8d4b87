"""Policies followed in the dream and in the simulator, from the same states: whether the model
tells good from bad.

A plan is done blindly; a policy answers to what it sees, to dreams in the dream and to the
simulator in the simulator. So errors add up as they do where a policy learns in dreams, and where
one is picked by what it earns there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.evaluated_model import EvaluatedModel
from worldmodel.evaluation.quality.held_out_episodes import Branch, Simulator
from worldmodel.evaluation.quality.plan_returns import TrialStart
from worldmodel.evaluation.quality.prediction_metrics import spearman
from worldmodel.rollout.episodes import interval
from worldmodel.spaces import ActionSpace, State
from worldmodel.system.runtime import mix_seeds

SAMPLES = 8  # of one policy from one state, which are averaged
Act = Callable[[State], Tensor]  # states (N,...) -> actions (N,A)
# By name: a policy that begins anew, with dice that a number names
Policies = dict[str, Callable[[int], Act]]


@dataclass
class PolicyReturns:
    """Returns by start and policy (S,K), policies in the order of their names."""

    names: list[str]
    imagined: list[list[float]] = field(default_factory=list)
    real: list[list[float]] = field(default_factory=list)


def measure_policy_returns(
    model: EvaluatedModel,
    simulator: Simulator,
    starts: Sequence[TrialStart],
    policies: Policies,
    length: int,
    seed: int,
    on_policy: Callable[[int], None] = lambda done: None,
) -> PolicyReturns:
    """Every policy for so many steps from every start; a start that the simulator does not come
    back to is dropped.
    """
    found = PolicyReturns(list(policies))
    for number, start in enumerate(starts):
        imagined, real, policy_seed = [], [], mix_seeds(seed, 16, number)
        for place, begin in enumerate(policies.values()):
            model.reseed(number)
            branch = run_in_simulator(model, simulator, start, begin(policy_seed), length)
            if branch is None:
                break
            model.reseed(number)
            imagined.append(
                run_in_imagination(model, start.state, begin(policy_seed), branch.counted)
            )
            real.append(float(branch.reward.sum()))
            on_policy(number * len(policies) + place + 1)
        else:
            found.imagined.append(imagined)
            found.real.append(real)
    return found


def run_in_simulator(
    model: EvaluatedModel, simulator: Simulator, start: TrialStart, act: Act, length: int
) -> Branch | None:
    """What the simulator answers to a policy that acts on what the model believes; None as
    `Simulator.drive`.
    """
    state = start.state

    def choose(row: dict[str, Any] | None) -> np.ndarray:
        nonlocal state
        state = state if row is None else model.observe_step(state, row)
        return act(state)[0].numpy()

    return simulator.simulate_policy(start.episode, start.step, length, choose)


def run_in_imagination(
    model: EvaluatedModel, state: State, act: Act, counted: np.ndarray
) -> float:
    """The mean return of some dreams that a policy drives, as `plans.dream_plans` counts
    rewards.
    """
    state = {k: v.expand(SAMPLES, *v.shape[1:]) for k, v in state.items()}
    alive, total = (
        torch.ones(SAMPLES, dtype=torch.float64),
        torch.zeros(SAMPLES, dtype=torch.float64),
    )
    for counts in counted:
        state = {k: v[:, 0] for k, v in model.imagine(state, act(state)[:, None]).items()}
        total += alive * model.reward(state) * bool(counts)
        alive = alive * model.cont(state)
    return float(total.mean())


def rank_policies(found: PolicyReturns, length: int, seed: int = 0) -> dict[str, Any]:
    """Whether policies are ranked right, each one's returns with intervals over starts, and the
    gap over all.
    """
    imagined, real = np.array(found.imagined), np.array(found.real)
    gap = imagined - real
    by_policy = {
        name: average_with_interval("imagined", imagined[:, k], seed)
        | average_with_interval("real", real[:, k], seed)
        | average_with_interval("gap", gap[:, k], seed)
        for k, name in enumerate(found.names)
    }
    about = {
        "steps": length,
        "starts": len(real),
        "rank": spearman(imagined.mean(0), real.mean(0)),
    }
    return {**about, **average_with_interval("gap", gap.mean(1), seed), "by_policy": by_policy}


def average_with_interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    """The mean over starts, and its interval."""
    low, high = interval(values, seed)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def make_constant_policy(action: Tensor) -> Callable[[int], Act]:
    """One action (A,), whatever comes."""
    return lambda policy_seed: lambda state: action.expand(_count(state), -1)


def make_noisy_policy(
    begin: Callable[[int], Act], share: float, space: ActionSpace
) -> Callable[[int], Act]:
    """A policy that does a random action instead with this probability.

    All dreams have the same dice, and the simulator has them too: what differs is owed to the
    model. What was replaced is thought of all the same, since a planner goes on from its last
    plan.
    """

    def fresh(policy_seed: int) -> Act:
        act, generator = begin(policy_seed), torch.Generator().manual_seed(policy_seed)

        def choose(state: State) -> Tensor:
            action, other = act(state), space.random(1, generator)
            swapped = float(torch.rand((), generator=generator)) < share
            return other.expand_as(action) if swapped else action

        return choose

    return fresh


def _count(state: State) -> int:
    return len(next(iter(state.values())))
