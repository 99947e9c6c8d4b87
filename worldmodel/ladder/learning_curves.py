"""Returns of trainings, read from their logs: by frames, by minutes, and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.report.reported_run import extract_curve, read_run
from worldmodel.evaluation.report.svg import Series, plot_bars, plot_lines

BINS = 12  # points of a curve


def read_curves(paths: Sequence[Path]) -> dict[str, Any]:
    """The returns of training episodes of several seeds, and of their closing evaluations."""
    found: dict[str, Any] = {"frames": [], "minutes": [], "scores": [], "final": [], "spent": []}
    for path in paths:
        run = read_run(path)
        episodes = extract_curve(run.metrics, "episode/score")
        clock = [(0.0, 0.0), *extract_curve(run.metrics, "time/minutes")]
        frames = [frame for frame, _ in episodes]
        found["frames"].append(frames)
        times = np.interp(frames, [frame for frame, _ in clock], [minute for _, minute in clock])
        found["minutes"].append(times.tolist())
        found["scores"].append([score for _, score in episodes])
        found["final"].append(run.scores[-1]["eval/score"])
        found["spent"].append(clock[-1][1])
    return found


def average_curve(curve: Mapping[str, Any], by: str = "frames") -> list[tuple[float, float]]:
    """The mean return of the seeds in equal parts of the axis: pairs (end of the part, mean)."""
    x = np.concatenate([np.asarray(part, float) for part in curve[by]])
    y = np.concatenate([np.asarray(part, float) for part in curve["scores"]])
    if not len(x):
        return []
    edges = np.linspace(0, x.max(), BINS + 1)
    part = np.clip(np.searchsorted(edges, x, "left") - 1, 0, BINS - 1)
    return [
        (float(edges[i + 1]), float(y[part == i].mean())) for i in range(BINS) if (part == i).any()
    ]


def plot_curves(title: str, curves: Mapping[str, Any], by: str, note: str = "") -> str:
    """Mean returns of training episodes over environment steps or over minutes."""
    series = [
        Series(name, average_curve(curve, by), i) for i, (name, curve) in enumerate(curves.items())
    ]
    axis = {"frames": "environment steps", "minutes": "minutes"}[by]
    return plot_lines(title, series, axis, base=0.0, note=note)


def plot_finals(title: str, curves: Mapping[str, Any], note: str = "") -> str:
    """The returns of the closing evaluations, with the range of the seeds."""
    rows = [
        (name, float(np.mean(c["final"])), float(min(c["final"])), float(max(c["final"])))
        for name, c in curves.items()
    ]
    return plot_bars(title, rows, range(len(rows)), note)
