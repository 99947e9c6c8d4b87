"""The key findings of a run: a line for each measured result, with a link to its section."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from worldmodel.evaluation.quality.summary_text import describe_useful_horizons
from worldmodel.evaluation.report.html import render_details
from worldmodel.evaluation.report.reported_run import DAMAGE_ERRORS, ReportedRun, require_number

# The sentence, the file that it comes from, the section of the page that shows more.
Finding = tuple[str, str, str]


def render_findings(runs: Sequence[ReportedRun]) -> str:
    """The findings of one run in the open, of several runs folded."""
    found = [(run.name, "".join(map(_render_finding, list_findings(run)))) for run in runs]
    parts = [(name, f'<ul class="findings">{items}</ul>') for name, items in found if items]
    if len(runs) == 1:
        return "".join(part for _, part in parts)
    return "".join(render_details(f"key findings of {name}", part) for name, part in parts)


def _render_finding(line: Finding) -> str:
    text, file, part = line
    return f'<li>{escape(text)} <a class="source" href="#{part}">{escape(file)}</a></li>'


def list_findings(run: ReportedRun) -> list[Finding]:
    found = [(text, "scores.jsonl", "scores") for text in _describe_training_score(run)]
    makers: tuple[tuple[str, str, Callable[[dict[str, Any]], list[str]]], ...] = (
        ("returns.json", "returns", _describe_returns),
        ("model.json", "model", describe_useful_horizons),
        ("model.json", "model", _describe_plans),
        ("compare.json", "planners", _describe_drivers),
    )
    for file, part, make in makers:
        x = run.read_result(file)
        with contextlib.suppress(
            *DAMAGE_ERRORS
        ):  # that part of the page says what is wrong with it
            found += (
                [(text + _format_frames(run, x), file, part) for text in make(x)]
                if x is not None
                else []
            )
    return found


def _format_frames(run: ReportedRun, x: dict[str, Any]) -> str:
    """The frames at which a result was measured, if the run has continued since."""
    return (
        ""
        if x.get("frames", run.frames) == run.frames
        else f" (Measured at {require_number(x['frames']):,.0f} frames.)"
    )


def _describe_training_score(run: ReportedRun) -> list[str]:
    rows = [x for x in run.scores if "eval/score" in x]
    if not rows:
        return []
    x = rows[-1]
    ends = [x.get("eval/score_low"), x.get("eval/score_high")]
    over = f", over {x['eval/episodes']:.0f} episodes" if "eval/episodes" in x else ""
    return [
        f"Last evaluation during training: {_format_number(x['eval/score'])}{_format_interval(*ends)}{over}, at "
        f"{x['frames']:,} frames."
    ]


def _describe_returns(x: dict[str, Any]) -> list[str]:
    ends = _format_interval(x["eval/score_low"], x["eval/score_high"])
    return [
        f"On new episodes: {_format_number(x['eval/score'])}{ends}, over {len(x['scores'])} "
        f"episodes."
    ]


def _describe_plans(x: dict[str, Any]) -> list[str]:
    found = []
    if plans := x.get("plans"):
        among = f"{require_number(plans['rank_within']):.2f} among plans from one state"
        also = (
            f", {require_number(x['policies']['rank']):.2f} among policies"
            if x.get("policies")
            else ""
        )
        found.append(f"Rank correlation of imagined and real returns (1 is best): {among}{also}.")
        kinds = plans["by_kind"]
        if own := kinds.get("planner"):
            ends = _format_interval(own["gap_low"], own["gap_high"])
            beside = (
                f"; for random plans {_format_number(kinds['random']['gap'])}"
                if "random" in kinds
                else ""
            )
            found.append(
                f"The planner's own plans return {_format_number(own['imagined'])} in imagination "
                f"and {_format_number(own['real'])} in the simulator: exploitation "
                f"{_format_number(own['gap'])}{ends}, 0 is best{beside}."
            )
    return found


def _describe_drivers(x: dict[str, Any]) -> list[str]:
    scores = {name: (require_number(r["eval/score"]), r) for name, r in x["drivers"].items()}
    best = max(scores, key=lambda name: scores[name][0])
    value, r = scores[best]
    others = [
        f"{name} {_format_number(scores[name][0])}"
        for name in ("actor", "random")
        if name in scores and name != best
    ]
    ends = _format_interval(r["eval/score_low"], r["eval/score_high"])
    beside = f"; {', '.join(others)}" if others else ""
    return [
        f"Best of {len(scores)} ways to choose actions: {best}, {_format_number(value)}{ends}{beside}."
    ]


def _format_interval(low: Any, high: Any) -> str:
    return (
        ""
        if low is None or high is None
        else f" (95 % interval {_format_number(low)} to {_format_number(high)})"
    )


def _format_number(value: Any) -> str:
    """One decimal for large numbers, three significant digits for small ones."""
    found = require_number(value)
    return f"{found:.1f}" if abs(found) >= 10 else f"{found:.3g}"
