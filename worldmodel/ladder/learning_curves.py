"""Returns of trainings, read from their logs: by steps, by processor time, and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.report.reported_run import extract_curve, read_run
from worldmodel.evaluation.report.svg import REFERENCES, Series, plot_bars, plot_lines
from worldmodel.ladder.colours import choose_style
from worldmodel.ladder.statements import describe_count, join_words

POINTS = 40  # of a line at most
RETURN = "return of an episode"

Curve = Mapping[str, Any]  # what `read_curves` finds; its lists have an entry for each seed


def read_curves(paths: Sequence[Path]) -> dict[str, Any]:
    """The returns of training episodes of several seeds, and of their closing evaluations.

    `minutes` and `spent` are processor minutes; a run that has not logged them has None.
    `prefill` is how many steps of random actions come first, `updates` how many the model had.
    """
    keys = ("seeds", "frames", "minutes", "scores", "final", "spent", "prefill", "updates")
    found: dict[str, Any] = {key: [] for key in keys}
    for path in paths:
        run = read_run(path)
        episodes = extract_curve(run.metrics, "episode/score")
        clock = extract_curve(run.metrics, "time/processor_minutes")
        updates = extract_curve(run.metrics, "updates")
        frames = [frame for frame, _ in episodes]
        found["seeds"].append(run.config.run.seed)
        found["frames"].append(frames)
        at, minutes = zip((0.0, 0.0), *clock, strict=True)
        found["minutes"].append(np.interp(frames, at, minutes).tolist() if clock else None)
        found["scores"].append([score for _, score in episodes])
        found["final"].append(run.scores[-1]["eval/score"])
        found["spent"].append(clock[-1][1] if clock else None)
        found["prefill"].append(run.config.train.prefill)
        found["updates"].append(updates[-1][1] if updates else 0.0)
    return found


def keep_seeds(curve: Curve, seeds: Sequence[int]) -> dict[str, Any]:
    """A curve of these seeds alone, in their order."""
    rows = [curve["seeds"].index(seed) for seed in seeds]
    return {key: [values[row] for row in rows] for key, values in curve.items()}


def list_shared_seeds(*curves: Curve) -> list[int]:
    """The seeds that all of the curves have."""
    return [s for s in curves[0]["seeds"] if all(s in curve["seeds"] for curve in curves)]


def match_seeds(curves: Mapping[str, Curve]) -> dict[str, dict[str, Any]]:
    """The curves, each of the seeds that all of them have."""
    seeds = list_shared_seeds(*curves.values())
    return {label: keep_seeds(curve, seeds) for label, curve in curves.items()}


def compare_spent(curves: Mapping[str, Curve]) -> dict[str, float] | None:
    """Mean processor minutes over the seeds that all have; None where they are not known."""
    spent = {label: curve["spent"] for label, curve in match_seeds(curves).items()}
    if any(not own or None in own for own in spent.values()):
        return None
    return {label: float(np.mean(own)) for label, own in spent.items()}


def average_episodes(curve: Curve, by: str = "frames") -> np.ndarray:
    """The mean, least and highest return of the seeds in each episode: rows (x, mean, low, high).

    Episode i of every seed counts, so that a seed with fewer episodes ends the curve.
    """
    count = min((len(scores) for scores in curve["scores"]), default=0)
    if not count or any(one is None for one in curve[by]):
        return np.zeros((0, 4))
    x, y = (np.array([one[:count] for one in curve[key]], float) for key in (by, "scores"))
    return np.stack([x.mean(0), y.mean(0), y.min(0), y.max(0)], 1)


def describe_prefill(curves: Mapping[str, Curve]) -> str:
    """How many steps of the curves are random actions, as a note of their plot."""
    counts = {label: own["prefill"][0] for label, own in curves.items() if own["prefill"]}
    if not counts:
        return ""
    least = min(counts.values())
    more = [f"of {label} {count:,}" for label, count in counts.items() if count != least]
    apart = f" ({join_words(more)})" if more else ""
    return f"the first {describe_count(least, 'step')}{apart} are random actions"


def count_steps(curve: Curve, level: float) -> float | None:
    """The environment steps after which the mean return is first at a level."""
    return next((float(x) for x, mean, *_ in average_episodes(curve) if mean >= level), None)


def plot_curves(
    title: str,
    curves: Mapping[str, Curve],
    by: str = "frames",
    note: str = "",
    levels: Mapping[str, float] | None = None,
    names: Mapping[str, str] | None = None,
) -> str:
    """Mean returns of training episodes over environment steps or over processor minutes.

    Few lines have a band from the worst to the best seed. `levels` are numbers to compare with.
    """
    series = []
    for label, curve in curves.items():
        rows = average_episodes(curve, by)
        rows = _thin_rows(rows)
        seeds = describe_count(len(curve["scores"]), "seed")
        name = f"{(names or {}).get(label, label)} ({seeds})"
        series.append(Series(name, [(x, y) for x, y, *_ in rows.tolist()], choose_style(label)))
        if len(curves) < 4 and len(curve["scores"]) > 1:
            series[-1].low, series[-1].high = rows[:, 2].tolist(), rows[:, 3].tolist()
    axis = {"frames": "environment steps", "minutes": "processor minutes"}[by]
    if any(one.low for one in series):
        note = "; ".join(filter(None, (note, "band: worst to best seed")))
    ends = [x for one in series for x, _ in one.points]
    series += [
        Series(f"{name} {level:.1f}", [(min(ends), level), (max(ends), level)], REFERENCES[i])
        for i, (name, level) in enumerate((levels or {}).items() if ends else ())
    ]
    return plot_lines(title, series, axis, base=0.0, note=note, y_name=RETURN)


def _thin_rows(rows: np.ndarray) -> np.ndarray:
    """Average neighbours, so that a line has few points."""
    parts = np.array_split(rows, min(len(rows), POINTS)) if len(rows) else []
    return np.array([part.mean(0) for part in parts]).reshape(-1, 4)


def plot_finals(
    title: str,
    curves: Mapping[str, Curve],
    note: str = "",
    levels: Mapping[str, float] | None = None,
    names: Mapping[str, str] | None = None,
) -> str:
    """The mean returns of the closing evaluations, with a dot for each seed."""
    rows = []
    for label, curve in curves.items():
        final, seeds = curve["final"], describe_count(len(curve["final"]), "seed")
        name = f"{(names or {}).get(label, label)}, {seeds}"
        rows.append((name, float(np.mean(final)), float(min(final)), float(max(final))))
    dots = [curve["final"] for curve in curves.values()]
    note = "; ".join(filter(None, (note, "bar: mean; dot: one seed")))
    styles = [choose_style(label) for label in curves]
    return plot_bars(title, rows, styles, note, dots, levels, ".1f")
