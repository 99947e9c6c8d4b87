"""Too much pessimism stops exploration."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.report.svg import Series, plot_lines
from worldmodel.ladder.grid import count_visits, make_grid
from worldmodel.ladder.learning_curves import read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, read_vectors
from worldmodel.ladder.trainings import Study, label_caution


def list_labels(study: Study) -> list[str]:
    return [label_caution(pessimism) for pessimism in study.cautions]


def measure(material: Material) -> Results:
    found: Results = {"pessimism": [], "final": [], "coverage": []}
    points = make_grid().reshape(-1, 2)
    for pessimism in material.study.cautions:
        paths = material.runs[label_caution(pessimism)]
        seen = [float((count_visits(read_vectors(p), points) > 0).mean()) for p in paths]
        found["pessimism"].append(pessimism)
        found["final"].append(read_curves(paths)["final"])
        found["coverage"].append(seen)
    return found


def describe(results: Results) -> str:
    final = [float(np.mean(one)) for one in results["final"]]
    coverage = [float(np.mean(one)) for one in results["coverage"]]
    least, most = results["pessimism"][0], results["pessimism"][-1]
    best = results["pessimism"][int(np.argmax(final))]
    stops = coverage[-1] < coverage[0] - 0.02 and final[-1] < max(final)
    return (
        f"From a pessimism of {least:g} to {most:g} the visited part of the room went from "
        f"{coverage[0]:.0%} to {coverage[-1]:.0%} and the return from {final[0]:.3g} to "
        f"{final[-1]:.3g}, {'as' if stops else 'which is not what'} the lecture says; {best:g} "
        "got the highest return."
    )


def draw(results: Results) -> str:
    # Zero has no place on a logarithmic axis, so settings stand at equal distances.
    def make(name: str, key: str, style: int) -> Series:
        points = [(float(i), float(np.mean(one))) for i, one in enumerate(results[key])]
        labels = [f"{x:g}" for x in results["pessimism"]]
        low, high = ([float(f(one)) for one in results[key]] for f in (min, max))
        return Series(name, points, style, intervals=True, labels=labels, low=low, high=high)

    axis = "settings of planner.pessimism, from left to right"
    return plot_lines("Return", [make("return", "final", 0)], axis, base=0.0) + plot_lines(
        "Share of the room that was visited", [make("coverage", "coverage", 1)], axis, base=0.0
    )


LESSON = Lesson(
    "caution",
    "Too much caution stops exploring",
    "A planner that avoids what its members disagree on never visits it, so that nothing is "
    "learnt there and better returns are never found.",
    list_labels,
    measure,
    describe,
    draw,
    state_only=True,
)
