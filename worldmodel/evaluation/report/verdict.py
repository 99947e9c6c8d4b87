"""What the measured numbers say of a run, in a few lines with the file of each; what is not there
has no line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from worldmodel.evaluation.quality.summary_text import reaches
from worldmodel.evaluation.report.gather import ODD, Seed, sure
from worldmodel.evaluation.report.html import folded

# What is said, the file that it is from, the part of the page that shows more
Line = tuple[str, str, str]


def verdict(seeds: Sequence[Seed]) -> str:
    """Of one run at once, of several folded, one below the other."""
    found = [(seed.name, "".join(map(_shown, lines(seed)))) for seed in seeds]
    parts = [(name, f'<ul class="verdict">{items}</ul>') for name, items in found if items]
    if len(seeds) == 1:
        return "".join(part for _, part in parts)
    return "".join(folded(f"{name}, in a few lines", part) for name, part in parts)


def _shown(line: Line) -> str:
    said, file, part = line
    return f'<li>{escape(said)} <a class="source" href="#{part}">{escape(file)}</a></li>'


def lines(seed: Seed) -> list[Line]:
    found = [(said, "scores.jsonl", "scores") for said in _evaluated(seed)]
    makers: tuple[tuple[str, str, Callable[[dict[str, Any]], list[str]]], ...] = (
        ("returns.json", "returns", _again),
        ("model.json", "model", reaches),
        ("model.json", "model", _plans),
        ("compare.json", "planners", _ways),
    )
    for file, part, make in makers:
        x = seed.measured(file)
        with contextlib.suppress(*ODD):  # that part of the page says what is wrong with it
            found += (
                [(said + _when(seed, x), file, part) for said in make(x)] if x is not None else []
            )
    return found


def _when(seed: Seed, x: dict[str, Any]) -> str:
    """At which frames it was measured, where the run has gone on since."""
    return (
        ""
        if x.get("frames", seed.frames) == seed.frames
        else f" (Measured at {sure(x['frames']):,.0f} frames.)"
    )


def _evaluated(seed: Seed) -> list[str]:
    rows = [x for x in seed.scores if "eval/score" in x]
    if not rows:
        return []
    x = rows[-1]
    ends = [x.get("eval/score_low"), x.get("eval/score_high")]
    over = f", over {x['eval/episodes']:.0f} episodes" if "eval/episodes" in x else ""
    return [
        f"Last evaluation in training: {_rounded(x['eval/score'])}{_interval(*ends)}{over}, at "
        f"{x['frames']:,} frames."
    ]


def _again(x: dict[str, Any]) -> list[str]:
    ends = _interval(x["eval/score_low"], x["eval/score_high"])
    return [
        f"Measured again on new episodes: {_rounded(x['eval/score'])}{ends}, over "
        f"{len(x['scores'])}."
    ]


def _plans(x: dict[str, Any]) -> list[str]:
    found = []
    if plans := x.get("plans"):
        among = f"{sure(plans['rank_within']):.2f} among plans from one state"
        also = f", {sure(x['policies']['rank']):.2f} among policies" if x.get("policies") else ""
        found.append(
            f"Dreams put returns into the right order (rank correlation, 1 is best): "
            f"{among}{also}."
        )
        kinds = plans["by_kind"]
        if own := kinds.get("planner"):
            ends = _interval(own["gap_low"], own["gap_high"])
            beside = (
                f"; of random plans {_rounded(kinds['random']['gap'])}"
                if "random" in kinds
                else ""
            )
            found.append(
                f"The planner's own plans are imagined {_rounded(own['imagined'])} and are worth "
                f"{_rounded(own['real'])}: exploitation {_rounded(own['gap'])}{ends}, 0 is best"
                f"{beside}."
            )
    return found


def _ways(x: dict[str, Any]) -> list[str]:
    scores = {name: (sure(r["eval/score"]), r) for name, r in x["drivers"].items()}
    best = max(scores, key=lambda name: scores[name][0])
    value, r = scores[best]
    others = [
        f"{name} {_rounded(scores[name][0])}"
        for name in ("actor", "random")
        if name in scores and name != best
    ]
    ends = _interval(r["eval/score_low"], r["eval/score_high"])
    beside = f"; {', '.join(others)}" if others else ""
    return [f"Best of {len(scores)} ways to drive it: {best}, {_rounded(value)}{ends}{beside}."]


def _interval(low: Any, high: Any) -> str:
    return (
        ""
        if low is None or high is None
        else f" (95 % interval {_rounded(low)} to {_rounded(high)})"
    )


def _rounded(value: Any) -> str:
    """As fine as one reads it: a digit behind the point of large numbers, three digits of small
    ones.
    """
    found = sure(value)
    return f"{found:.1f}" if abs(found) >= 10 else f"{found:.3g}"
