"""The policies of a saved run that are worth comparing: its own, worse and worse mixtures of them,
and held actions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodel.config.schema import plans_to_goal
from worldmodel.errors import RunError
from worldmodel.evaluation.imagination.futures import held
from worldmodel.evaluation.quality.policy_returns import Act, Policies, always, mixed
from worldmodel.saved_run import Run
from worldmodel.spaces import State, count_states
from worldmodel.system.runtime import autocast, make_generator

QUICK = 0.25  # of the planner's candidates: it plans anew at every step of every dream
NOISE = {"1/3 random": 1 / 3, "2/3 random": 2 / 3}
HELD = 4  # actions


def own_policies(run: Run, seed: int) -> Policies:
    """At least five: actor, planner, one of them mixed with random actions, these alone, and held
    actions.
    """
    found: Policies = {}
    if run.policy is not None:
        found["actor"] = _driven(run.driven([("behavior.name", "actor_critic")]), seed)
    planning = _quick(run)
    if planning is not None:
        found["planner"] = _driven(planning, seed)
    kept = {
        f"always {name}": always(torch.from_numpy(action))
        for name, action in held(run.action_space)[:HELD]
    }
    guide, begin = list(found.items())[0] if found else list(kept.items())[-1]
    for name, share in NOISE.items():
        found[f"{guide}, {name}"] = mixed(begin, share, run.action_space)
    found["random"] = mixed(next(iter(kept.values())), 1, run.action_space)
    return found | kept


def _quick(run: Run) -> Run | None:
    """Driven by its planner with fewer candidates; None where there is none that plans
    for reward.
    """
    p = run.config.planner
    if plans_to_goal(run.config):
        return None
    count = max(4, round(p.candidates * QUICK))
    keys = {
        "candidates": count,
        "elites": min(max(2, round(p.elites * QUICK)), count // 2),
        "proposals": min(p.proposals, max(1, round(p.proposals * QUICK))),
    }
    try:
        return run.driven(
            [("behavior.name", "mpc"), *((f"planner.{k}", str(v)) for k, v in keys.items())]
        )
    except RunError:
        return None


def _driven(run: Run, seed: int) -> Any:
    """A run's behaviour, greedy, in the precision it acts in."""
    behavior, device = run.agent.behavior, run.agent.device

    def begin(dice: int) -> Act:
        generator, kept = make_generator(seed, 15, dice, device=device.type), None

        @torch.no_grad()
        def act(state: State) -> Tensor:
            nonlocal kept
            count = count_states(state)
            fresh = torch.full((count,), kept is None, device=device)
            with autocast(device, run.agent.precision):
                action, kept = behavior.act(
                    state,
                    kept if kept is not None else behavior.init(count),
                    fresh,
                    "eval",
                    generator,
                )
            return action.float().cpu()

        return act

    return begin
