"""What a saved run can act by: its behaviors and planners, policies made from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodel import registry
from worldmodel.config.component_settings import states_fact
from worldmodel.config.loading import ConfigError
from worldmodel.config.schema import plans_to_goal
from worldmodel.errors import RunError
from worldmodel.evaluation.quality.evaluated_model import Planner
from worldmodel.evaluation.quality.policies import (
    BEHAVIOR_LABELS,
    Act,
    Policies,
    list_constant_actions,
    make_constant_policy,
    make_noisy_policy,
)
from worldmodel.model.given_reward import GivenReward
from worldmodel.saved_run import Run
from worldmodel.spaces import State, count_states
from worldmodel.system.runtime import autocast, make_generator

CANDIDATE_SHARE = 0.25  # of the planner's candidates: it plans at every step of every rollout
NOISE = {"1/3 random": 1 / 3, "2/3 random": 2 / 3}
MAX_CONSTANT = 4  # constant actions among the policies


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


def make_behaviors(run: Run) -> tuple[dict[str, Any], list[str]]:
    """The behaviors that the run can use, its own first, and a line for each that it cannot."""
    own = run.config.behavior.name
    found: dict[str, Any] = {own: run.agent.behavior}
    left_out = []
    # Any learned policy acts as an actor_critic; one that acts already is not listed twice.
    learned = states_fact(registry.BEHAVIORS[own], "policy") and not run.agent.behavior.plans
    for name in ("mpc", "random") if learned else ("actor_critic", "mpc", "random"):
        if name == own:
            continue
        try:
            found[name] = run.apply_overrides([("behavior.name", name)]).agent.behavior
        except ConfigError as error:
            left_out.append(f"{BEHAVIOR_LABELS[name]} cannot act: {error.problems[0]}")
        except RunError:
            given = isinstance(run.model.reward, GivenReward)
            why = "it learned another reward" if given else "this run has no actor and no critic"
            why = why if run.policy is None else "this run has no critic"
            left_out.append(f"{BEHAVIOR_LABELS[name]} cannot act: {why}")
    return found, left_out


def make_planners(run: Run, seed: int) -> tuple[dict[str, Planner], int, list[str]]:
    """The run's actor and planner as functions of states, their horizon, and what is missing."""
    generator = make_generator(seed, 12, device=run.agent.device.type)
    length, left_out = run.config.planner.horizon, []
    found: dict[str, Planner] = {}
    if run.policy is not None:
        policy = run.policy
        found["actor"] = _wrap_planner(
            run, lambda state: policy.propose_plans(run.model, state, 1, length, generator)[:, 0]
        )
    if plans_to_goal(run.config):
        left_out.append("this run plans to a goal instead of reward: no planner is measured")
        return found, length, left_out
    try:
        behavior = run.apply_overrides([("behavior.name", "mpc")]).agent.behavior
    except RunError:
        left_out.append(
            "this run's planner needs an actor or a critic, and the run has none: no planner is "
            "measured"
        )
        return found, length, left_out

    def search(state: State) -> Tensor:
        count = count_states(state)
        fresh = torch.ones(count, dtype=torch.bool, device=run.agent.device)
        return behavior.plan(state, behavior.init(count), fresh, generator)

    found["planner"] = _wrap_planner(run, search)
    return found, length, left_out


def _wrap_planner(run: Run, plan: Planner) -> Planner:
    """Plan in the precision in which the run acts, without gradients."""

    @torch.no_grad()
    def plan_as_run(state: State) -> Tensor:
        with autocast(run.agent.device, run.agent.precision):
            return plan(state).float().cpu()

    return plan_as_run
