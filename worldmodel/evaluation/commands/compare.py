"""`eval.py RUN compare`: returns of a saved run under every driver, at several budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from worldmodel.config.schema import plans_in_simulator
from worldmodel.errors import UsageError
from worldmodel.evaluation.results import write_result
from worldmodel.evaluation.returns.drivers import (
    NO_LEARNING,
    NO_POLICY,
    Driver,
    TimedPlayer,
    find_lacks,
    format_table,
    list_drivers,
    plot_drivers,
)
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    require_environment,
)
from worldmodel.evaluation.returns.reward_meter import RewardMeter
from worldmodel.model.given_reward import GivenReward
from worldmodel.rollout.evaluation_episodes import run_episodes
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say


@dataclass(frozen=True)
class CompareOptions:
    """Episodes per driver, budgets as shares of the run's candidates, names of drivers or None."""

    episodes: int
    seed: int
    budgets: Sequence[float]
    only: str | None


def compare_drivers(run: Run, make: Callable[..., Any], options: CompareOptions) -> None:
    """Write compare.json and compare.png, and print a table and a line per missing driver."""
    own, imagines, reward = run.config.behavior.name, run.model.dynamics.imagines, run.model.reward
    given = reward if isinstance(reward, GivenReward) else None
    acts = run.policy is not None and own != "random" and not run.agent.behavior.plans
    why = run.lost_policy or (NO_LEARNING if plans_in_simulator(run.config) else NO_POLICY)
    drivers, missing = list_drivers(
        run.config.planner,
        run.policy is not None,
        options.budgets if imagines else (),
        own if acts else "actor_critic",
        why,
        find_lacks(
            run.config,
            run.action_space.discrete,
            run.model.dynamics.feature_size,
            split_names(options.only),
            run.policy,
        ),
    )
    if not imagines:
        missing["planner"] = "left out: every planner; this agent has no model to plan with"
    if options.only is not None:
        drivers, missing = select_drivers(drivers, missing, options.only), {}
    target, results = run.results, dict[str, dict[str, Any]]()
    efforts = [driver.effort for driver in drivers.values()]
    bar = Progress(sum(efforts) * options.episodes, "compare")
    with require_environment(make)() as envs:  # one environment: times are of single actions
        for number, (name, driver) in enumerate(drivers.items()):
            rollout, player = make_evaluation_rollout(
                run.apply_overrides(driver.overrides), envs, options.seed
            )
            timed = TimedPlayer(player)
            meter = RewardMeter(timed, given) if given else None

            def draw(done: int, number: int = number, name: str = name) -> bool:
                bar.update(sum(efforts[:number]) * options.episodes + efforts[number] * done, name)
                return False

            result = run_episodes(rollout, meter or timed, options.episodes, draw)
            assert result is not None
            results[name] = {
                **result.summarize(options.seed),
                "scores": result.scores,
                "way": driver.name,
                "candidates": driver.candidates,
                "ms_per_action": timed.milliseconds,
            }
            if meter is not None:
                results[name]["given_reward"] = meter.summarize(options.episodes, options.seed)
    bar.close()
    about = {
        "run": str(run.path),
        "frames": run.frames,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "planner": vars(run.config.planner),
    }
    lines = {
        **about,
        "budgets": list(options.budgets),
        "left_out": list(missing.values()),
        "drivers": results,
    }
    title = (
        f"{run.config.env.task}, {run.frames} frames: one run, {options.episodes} episodes "
        f"per driver"
    )
    timed_on = f"times per action on {torch.get_num_threads()} threads"
    say("\n".join([format_table(results), timed_on, *missing.values()]))
    write_result(target / "compare.json", lines)
    say(f"  {target / 'compare.json'}\n  {plot_drivers(results, target / 'compare.png', title)}")


def split_names(only: str | None) -> list[str]:
    """The names that an option lists."""
    return [word.strip() for word in only.split(";")] if only is not None else []


def select_drivers(
    drivers: dict[str, Driver], missing: dict[str, str], only: str
) -> dict[str, Driver]:
    """The drivers named in `only`; UsageError for a name that is unknown or that the run lacks."""
    names = split_names(only)
    known = dict.fromkeys(driver.name for driver in drivers.values())
    for name in names:
        if name in missing:
            raise UsageError(f"--drivers: {missing[name]}")
        if name not in known:
            raise UsageError(f"--drivers: {name!r} is not one of {'; '.join(known)}")
    return {full: driver for full, driver in drivers.items() if driver.name in names}
