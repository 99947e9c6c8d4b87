"""`eval.py RUN compare`: one saved model driven in every way it can be, at several budgets of
thinking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worldmodel.errors import UsageError
from worldmodel.evaluation.returns.drivers import Driver, Timed, drawn, drivers, table
from worldmodel.evaluation.returns.recordings import needed, playing
from worldmodel.rollout.episodes import run_episodes
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say


@dataclass(frozen=True)
class Wanted:
    """How much to play, at which shares of the run's candidates, and in which ways (None: in all
    of them).
    """

    episodes: int
    seed: int
    budgets: Sequence[float]
    only: str | None


def compared(run: Run, make: Callable[..., Any], wanted: Wanted) -> None:
    """compare.json, compare.png and a table; what this run cannot be driven by has a line each."""
    ways, lacking = drivers(run.config.planner, run.policy is not None, wanted.budgets)
    if wanted.only is not None:
        ways, lacking = chosen(ways, lacking, wanted.only), {}
    target, results = run.path / "eval", {}
    efforts = [way.effort for way in ways.values()]
    bar = Progress(sum(efforts) * wanted.episodes, "compare")
    with needed(make)() as envs:  # one at a time: an action's time is that of a single decision
        for number, (name, way) in enumerate(ways.items()):
            rollout, player = playing(run.driven(way.changes), envs, wanted.seed)
            timed = Timed(player)

            def draw(done: int, number: int = number, name: str = name) -> bool:
                bar.update(sum(efforts[:number]) * wanted.episodes + efforts[number] * done, name)
                return False

            result = run_episodes(rollout, timed, wanted.episodes, draw)
            assert result is not None
            results[name] = {
                **result.summary(wanted.seed),
                "scores": result.scores,
                "way": way.name,
                "candidates": way.candidates,
                "ms_per_action": timed.milliseconds,
            }
    bar.close()
    about = {
        "run": str(run.path),
        "frames": run.frames,
        "seed": wanted.seed,
        "planner": vars(run.config.planner),
    }
    lines = {
        **about,
        "budgets": list(wanted.budgets),
        "left_out": list(lacking.values()),
        "drivers": results,
    }
    (target / "compare.json").write_text(json.dumps(lines, indent=1) + "\n")
    title = (
        f"{run.config.env.task}, {run.frames} frames: one model, {wanted.episodes} episodes each "
        f"way"
    )
    say("\n".join([table(results), *lacking.values()]))
    say(f"  {target / 'compare.json'}\n  {drawn(results, target / 'compare.png', title)}")


def chosen(ways: dict[str, Driver], lacking: dict[str, str], only: str) -> dict[str, Driver]:
    """The ways that were asked for, in their order; UsageError for one that is none, or that this
    run lacks.
    """
    names = [word.strip() for word in only.split(";")]
    known = dict.fromkeys(way.name for way in ways.values())
    for name in names:
        if name in lacking:
            raise UsageError(f"--drivers: {lacking[name]}")
        if name not in known:
            raise UsageError(f"--drivers: {name!r} is not one of {'; '.join(known)}")
    return {full: way for full, way in ways.items() if way.name in names}
