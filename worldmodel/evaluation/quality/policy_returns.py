"""Returns of policies in imagination and in the simulator, from the same states.

A plan is open-loop; a policy reacts to observations: to imagined states in imagination, to the
simulator in the simulator. So model errors add up as they do when a policy is trained or selected
in imagination.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.quality.evaluated_model import EvaluatedModel
from worldmodel.evaluation.quality.policies import Act, Policies
from worldmodel.evaluation.quality.prediction_metrics import spearman
from worldmodel.evaluation.quality.simulator import Branch, Simulator
from worldmodel.evaluation.quality.trial_starts import TrialStart
from worldmodel.rollout.statistics import estimate_interval
from worldmodel.spaces import State
from worldmodel.system.runtime import mix_seeds

SAMPLES = 8  # imagined rollouts per policy and start, which are averaged


@dataclass
class PolicyReturns:
    """Returns by start and policy (S,K); columns are in the order of the names."""

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
    """Run every policy from every start; drop starts that the simulator does not reproduce."""
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
    """Run a policy in the simulator on the model's posteriors; None as in `simulate_policy`."""
    state = start.state

    def choose(row: dict[str, Any] | None) -> np.ndarray:
        nonlocal state
        state = state if row is None else model.observe_step(state, row)
        return act(state)[0].numpy()

    return simulator.simulate_policy(start.episode, start.step, length, choose)


def run_in_imagination(
    model: EvaluatedModel, state: State, act: Act, counted: np.ndarray
) -> float:
    """The mean return of imagined rollouts under a policy; rewards count as in `imagine_plans`."""
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
    """Rank correlation of policies, their returns with intervals over starts, and the mean gap."""
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
    """The mean over starts with its interval."""
    low, high = estimate_interval(values, seed)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
