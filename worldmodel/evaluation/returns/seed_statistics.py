"""`eval.py RUN RUN ... returns`: aggregates over runs that differ in their seeds, by method.

A method is a run's run.name. A run's score is the mean return of its episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import RunError
from worldmodel.evaluation.plotting.style import (
    COLORS,
    MARKERS,
    get_line_style,
    load_pyplot,
    save_figure,
)
from worldmodel.evaluation.results import write_result
from worldmodel.rollout.statistics import AGGREGATES, compute_profile, estimate_aggregates
from worldmodel.system.console import say

PROFILE_LEVELS = 101  # returns at which the profile is evaluated
FEW_RUNS = 3  # an interval over fewer runs is unreliable
Scores = dict[str, dict[str, list[float]]]  # by task, by method: a score per run


def check_distinct_runs(paths: Sequence[Path]) -> None:
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunError("returns: the same run is named twice; its episodes would count twice", 2)


def write_aggregate(found: Sequence[dict[str, Any]], target: Path, seed: int) -> None:
    """Write seeds.json and seeds.png from the results of several runs, and print a table."""
    scores = group_by_task(found)
    results: dict[str, Any] = {
        "tasks": {
            task: aggregate_methods({m: [s] for m, s in methods.items()}, seed)
            for task, methods in scores.items()
        }
    }
    lines = [
        line for task, methods in results["tasks"].items() for line in format_table(task, methods)
    ]
    pages = [(task, results["tasks"][task]) for task in scores]
    if len(scores) > 1 and all(task.startswith("dmc:") for task in scores):
        # Returns of all DeepMind Control tasks lie between 0 and 1000, so they can be pooled.
        methods = dict.fromkeys(m for task in scores.values() for m in task)
        everywhere = [m for m in methods if all(m in task for task in scores.values())]
        if everywhere:
            results["together"] = aggregate_methods(
                {m: [scores[t][m] for t in scores] for m in everywhere}, seed
            )
            lines += format_table(f"{len(scores)} tasks together", results["together"])
            pages.append((f"{len(scores)} tasks together", results["together"]))
    elif len(scores) > 1:
        lines.append("returns of these tasks have no common scale: they are not pooled")
    few = min(len(s) for methods in scores.values() for s in methods.values())
    if few < FEW_RUNS:
        lines.append(
            f"a method has {few} run{'s' * (few > 1)}: an interval over so few is unreliable"
        )
    runs = [{k: x[k] for k in ("run", "task", "name", "frames", "eval/score")} for x in found]
    path = write_result(target / "seeds.json", {"seed": seed, "runs": runs, **results})
    say("\n".join(lines))
    say(f"  {path}\n  {plot_methods(pages, target / 'seeds.png')}")


def group_by_task(found: Sequence[dict[str, Any]]) -> Scores:
    scores: Scores = {}
    for x in found:
        scores.setdefault(x["task"], {}).setdefault(x["name"], []).append(
            float(np.mean(x["scores"]))
        )
    return scores


def aggregate_methods(methods: dict[str, list[list[float]]], seed: int) -> dict[str, Any]:
    """Aggregates with intervals and the performance profile of each method's scores."""
    strata = {m: [np.array(s) for s in tasks] for m, tasks in methods.items()}
    every = np.concatenate([s for tasks in strata.values() for s in tasks])
    room = 0.05 * max(np.ptp(every), 1e-6)
    levels = np.linspace(min(0.0, every.min()) - room, every.max() + room, PROFILE_LEVELS)
    return {
        m: {
            "runs": [s.tolist() for s in tasks],
            **estimate_aggregates(tasks, seed),
            "levels": levels,
            "profile": compute_profile(tasks, levels, seed),
        }
        for m, tasks in strata.items()
    }


def format_table(title: str, methods: dict[str, Any]) -> list[str]:
    """The aggregates as text, best IQM first."""
    lines = [f"{title:<28}{'runs':>5}" + "".join(f"{name:>28}" for name in AGGREGATES)]
    for name, x in sorted(methods.items(), key=lambda item: -item[1]["iqm"]["value"]):
        cells = (
            f"{x[a]['value']:.1f} ({x[a]['low']:.1f} to {x[a]['high']:.1f})" for a in AGGREGATES
        )
        lines.append(
            f"  {name:<26}{sum(map(len, x['runs'])):>5}" + "".join(f"{cell:>28}" for cell in cells)
        )
    return lines


TITLES = {"mean": "mean", "median": "median of task means", "iqm": "IQM"}


def plot_methods(pages: Sequence[tuple[str, dict[str, Any]]], target: Path) -> Path:
    """Plot interval estimates and performance profiles, a row for each task.

    The median over tasks is shown only if there are several.
    """
    most = max(len(methods) for _, methods in pages)
    pooled = any(len(x["runs"]) > 1 for _, methods in pages for x in methods.values())
    shown = {name: title for name, title in TITLES.items() if pooled or name != "median"}
    figure, grid = load_pyplot().subplots(
        len(pages),
        len(shown) + 1,
        figsize=(3.2 * len(shown) + 4.4, len(pages) * (2.2 + 0.35 * most)),
        dpi=100,
        squeeze=False,
        gridspec_kw={"width_ratios": [1] * len(shown) + [1.7]},
    )
    for row, (title, methods) in zip(grid, pages, strict=True):
        for axes, name in zip(row, shown, strict=False):
            _plot_intervals(axes, name, methods)
        row[0].set_ylabel(title, fontsize=9)
        _plot_profiles(row[-1], methods)
    return save_figure(
        figure,
        target,
        "returns, one dot per seed: bars are 95 % intervals, further right is better",
    )


def _plot_intervals(axes: Any, name: str, methods: dict[str, Any]) -> None:
    axes.set_title(f"{TITLES[name]}, higher is better")
    axes.use_sticky_edges = False
    for place, x in enumerate(methods.values()):
        color = COLORS[place % len(COLORS)]
        axes.barh(
            place,
            x[name]["high"] - x[name]["low"],
            left=x[name]["low"],
            height=0.6,
            color=color,
            alpha=0.35,
        )
        axes.plot([x[name]["value"]] * 2, [place - 0.3, place + 0.3], color=color, lw=2.5)
        runs = np.concatenate([np.array(s) for s in x["runs"]])
        axes.plot(
            runs,
            np.full(len(runs), place),
            ls="",
            marker=MARKERS[place % len(MARKERS)],
            ms=4,
            color=color,
        )
    axes.set_yticks(range(len(methods)), list(methods))
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_xlabel("return")


def _plot_profiles(axes: Any, methods: dict[str, Any]) -> None:
    axes.set_title("performance profile, higher is better")
    for place, (name, x) in enumerate(methods.items()):
        style = {**get_line_style(place), "marker": None}
        axes.step(x["levels"], x["profile"]["share"], where="post", lw=2, label=name, **style)
        axes.fill_between(
            x["levels"],
            x["profile"]["low"],
            x["profile"]["high"],
            step="post",
            alpha=0.2,
            color=style["color"],
            lw=0,
        )
    axes.set(xlabel="return", ylabel="share of runs above it", ylim=(-0.03, 1.03))
    axes.legend(loc="lower left")
