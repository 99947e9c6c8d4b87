"""Ways to drive one saved model, at several budgets: what each earns, and how long it thinks about
an action.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config.loading import preset_files, read_yaml
from worldmodel.config.schema import PlannerConfig
from worldmodel.evaluation.plotting.style import (
    describe_markers,
    get_line_style,
    load_pyplot,
    save_figure,
    scale_markers,
)
from worldmodel.rollout.episodes import doubts
from worldmodel.rollout.player import Player
from worldmodel.spaces import Row

Changes = list[tuple[str, str]]

# What the preset icem adds to a CEM of any size.
ADDED = ("momentum", "keep", "decay", "color")
ICEM = [
    (f"planner.{k}", str(v))
    for k, v in read_yaml(preset_files()["icem"])["planner"].items()
    if k in ADDED
]
SEEDS = 20  # one in so many candidates of a seeded planner comes from the actor


STEP = 50  # the effort of a step without a plan


@dataclass(frozen=True)
class Driver:
    """A way to drive, as changes to the run's configuration; `candidates` of a planner, None of
    what does not plan.

    `effort` is about how long a step takes it and the simulator, in units of a dreamt candidate.
    """

    name: str
    changes: Changes
    candidates: int | None = None
    effort: int = STEP


@dataclass(frozen=True)
class Planning:
    planner: str
    score: str = "reward"
    seeded: bool = False
    more: tuple[tuple[str, str], ...] = ()

    @property
    def learned(self) -> bool:
        """Whether it needs an actor or a critic."""
        return self.seeded or self.score != "reward"

    def changes(self, candidates: int, elites: int) -> Changes:
        keys = {
            "name": self.planner,
            "score": self.score,
            "candidates": candidates,
            "elites": elites,
            "proposals": max(1, candidates // SEEDS) if self.seeded else 0,
        }
        return [
            ("behavior.name", "mpc"),
            *((f"planner.{k}", str(v)) for k, v in keys.items()),
            *self.more,
        ]


PLANNINGS = {
    "shooting": Planning("shooting"),
    "cem": Planning("cem"),
    "icem": Planning("cem", more=tuple(ICEM)),
    "mppi": Planning("mppi"),
    "cem, critic": Planning("cem", "reward+value"),
    "cem, actor": Planning("cem", "reward", True),
    "cem, actor and critic": Planning("cem", "reward+value", True),
    "mppi, actor and critic": Planning("mppi", "reward+value", True),
}


def drivers(
    planner: PlannerConfig, learned: bool, budgets: Sequence[float]
) -> tuple[dict[str, Driver], dict[str, str]]:
    """By full name what can drive a run, planners once for each share of its candidates; by name
    why others cannot.
    """
    found = {"random": Driver("random", [("behavior.name", "random")])}
    if learned:
        found["actor"] = Driver("actor", [("behavior.name", "actor_critic")])
    able = {
        name: planning for name, planning in PLANNINGS.items() if learned or not planning.learned
    }
    for name, planning in able.items():
        for share in budgets:
            candidates = max(4, round(planner.candidates * share))
            elites = min(max(2, round(planner.elites * share)), candidates // 2)
            rounds = 1 if planning.planner == "shooting" else planner.iterations
            effort = STEP + rounds * candidates
            found[f"{name}, {candidates}"] = Driver(
                name, planning.changes(candidates, elites), candidates, effort
            )
    unable = [] if learned else ["actor", *(name for name in PLANNINGS if name not in able)]
    why = "this run trained no actor and no critic (behavior.name actor_critic would)"
    return found, {name: f"left out: {name}; {why}" for name in unable}


class Timed:
    """A player that notes how long each of its answers took."""

    def __init__(self, player: Player):
        self.player, self.seconds = player, list[float]()

    def __call__(self, rows: list[Row]) -> np.ndarray:
        began = time.perf_counter()
        actions = self.player(rows)
        self.seconds.append(time.perf_counter() - began)
        return actions

    @property
    def milliseconds(self) -> float:
        """The median, which a first call's warming up does not move."""
        return 1000 * float(np.median(self.seconds))


def table(results: dict[str, dict[str, Any]]) -> str:
    """Plain text, the best return first."""
    lines = [f"{'driven by (candidates)':<30}{'return':>9}{'95 % interval':>20}{'ms/action':>11}"]
    for name, r in sorted(results.items(), key=lambda item: -item[1]["eval/score"]):
        interval = (
            f"{r['eval/score_low']:.1f} to {r['eval/score_high']:.1f}"
            if len(r["scores"]) > 1
            else "-"
        )
        lines.append(f"{name:<30}{r['eval/score']:>9.1f}{interval:>20}{r['ms_per_action']:>11.1f}")
    count = min(len(r["scores"]) for r in results.values())
    return "\n".join(
        [
            *lines,
            *doubts(
                f"{'one episode' if count == 1 else f'{count} episodes'} each way (--episodes)",
                count,
            ),
        ]
    )


def drawn(results: dict[str, dict[str, Any]], target: Path, title: str) -> Path:
    """Return against thinking time, a line through the budgets of each way."""
    figure, axes = load_pyplot().subplots(figsize=(8.5, 5), dpi=100)
    sizes = scale_markers([r["candidates"] for r in results.values()])
    for number, way in enumerate(dict.fromkeys(r["way"] for r in results.values())):
        own = [r for r in results.values() if r["way"] == way]
        mean, low, high = (
            np.array([r[f"eval/score{k}"] for r in own]) for k in ("", "_low", "_high")
        )
        spread = [mean - low, high - mean] if all(len(r["scores"]) > 1 for r in own) else None
        style, took = get_line_style(number), [r["ms_per_action"] for r in own]
        axes.errorbar(
            took, mean, spread, label=way, capsize=2, lw=1.5, elinewidth=0.7, ms=5, **style
        )
        for r in own:
            axes.plot(
                r["ms_per_action"],
                r["eval/score"],
                ms=5 * sizes.get(r["candidates"], 1.0),
                **style,
            )
    axes.set_xscale("log")
    axes.set(
        xlabel=f"milliseconds per action, log scale{describe_markers(sizes)}",
        ylabel="mean return, 95 % range",
        title="up is better, left is quicker",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return save_figure(figure, target, title)
