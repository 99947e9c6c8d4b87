"""Too much pessimism stops exploration."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.report.svg import Series, plot_lines
from worldmodel.ladder.grid import count_visits, make_grid
from worldmodel.ladder.learning_curves import read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, measure_uncertainties, read_vectors
from worldmodel.ladder.trainings import ROOM_DATA, Study, label_caution

POINTS = 300  # visited states whose disagreement is measured


def list_labels(study: Study) -> list[str]:
    return [ROOM_DATA, *[label_caution(pessimism) for pessimism in study.cautions]]


def measure(material: Material) -> Results:
    """Of the episodes that were planned: where they were, and how unsure a model of random data is
    there.
    """
    found: Results = {"pessimism": [], "final": [], "coverage": [], "doubt": []}
    points, judge = make_grid().reshape(-1, 2), material.open(ROOM_DATA)
    for pessimism in material.study.cautions:
        label = label_caution(pessimism)
        prefill = material.open(label).config.train.prefill
        coverage, doubt = [], []
        for path in material.runs[label]:
            visited = read_vectors(path, prefill)
            coverage.append(float((count_visits(visited, points) > 0).mean()))
            some = visited[:: max(1, len(visited) // POINTS)]
            doubt.append(float(measure_uncertainties(judge, some)[1].mean()))
        found["pessimism"].append(pessimism)
        found["final"].append(read_curves(material.runs[label])["final"])
        found["coverage"].append(coverage)
        found["doubt"].append(doubt)
    return found


def describe(results: Results) -> str:
    """The lecture is right if the most pessimistic plans avoid doubt and earn less than others."""
    final, coverage, doubt = (
        [float(np.mean(one)) for one in results[key]] for key in ("final", "coverage", "doubt")
    )
    settings = results["pessimism"]
    best = int(np.argmax(final))
    avoids, loses = doubt[-1] < max(doubt[:-1]), final[-1] < max(final[:-1])
    verdict = {
        (True, True): "it avoids what the members disagree on and earns less, as the lecture says",
        (True, False): "it avoids what the members disagree on, but does not earn less, which is "
        "not what the lecture says",
        (False, True): "it earns less, but does not avoid what the members disagree on, which is "
        "only half of what the lecture says",
        (False, False): "it neither avoids what the members disagree on nor earns less, which is "
        "not what the lecture says",
    }[avoids, loses]
    wandered = ", although it wandered over more of the room" * (coverage[-1] > coverage[best])
    return (
        f"With a pessimism of {', '.join(f'{x:g}' for x in settings)} the return was "
        f"{', '.join(f'{x:.3g}' for x in final)}, the members' disagreement where planned "
        f"episodes went {', '.join(f'{x:.2g}' for x in doubt)}, and the visited part of the room "
        f"{', '.join(f'{x:.0%}' for x in coverage)}. With the most pessimism {verdict}"
        f"{wandered}; {settings[best]:g} got the highest return."
    )


def draw(results: Results) -> str:
    # Zero has no place on a logarithmic axis, so settings stand at equal distances.
    def plot(title: str, key: str, style: int, note: str = "") -> str:
        points = [(float(i), float(np.mean(one))) for i, one in enumerate(results[key])]
        settings = ", ".join(f"{x:g}" for x in results["pessimism"])
        low, high = ([float(f(one)) for one in results[key]] for f in (min, max))
        series = Series(key, points, style, intervals=True, low=low, high=high)
        axis = f"planner.pessimism, from left: {settings}"
        return plot_lines(title, [series], axis, base=0.0, note=note)

    return (
        plot("Return of the closing evaluation", "final", 0)
        + plot("Disagreement where plans went", "doubt", 1, "of a model of random data")
        + plot("Share of the room that plans visited", "coverage", 2)
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
