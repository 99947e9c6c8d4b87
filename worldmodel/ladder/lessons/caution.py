"""What pessimism does to exploration."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.report.svg import Series, plot_lines
from worldmodel.ladder.grid import count_visits, make_grid
from worldmodel.ladder.learning_curves import read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, measure_uncertainties, read_vectors
from worldmodel.ladder.statements import (
    Claim,
    describe_count,
    join_words,
    judge,
    name_verdict,
    state_absence,
    state_finding,
)
from worldmodel.ladder.trainings import ROOM_DATA, Study, label_caution

POINTS = 300  # visited states whose disagreement is measured
# What the lecture expects to be less with pessimism, as the end of a clause, and its format.
CLAIMS = (
    ("doubt", "disagreement", ".2g"),
    ("coverage", "of the room", ".0%"),
    ("final", "return", ".1f"),
)
NAMES = {"doubt": "disagreement", "coverage": "the part visited", "final": "the return"}
VERBS = {"doubt": "met", "coverage": "visited", "final": "got"}


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


def summarize(results: Results) -> str:
    settings, (most, plain) = results["pessimism"], choose_settings(results)
    if most == plain:
        return state_absence("no training with more pessimism than 0 is done")
    claims = [
        Claim(name_verdict(sign), f"{VERBS[key]} {said}")
        for key, (sign, said) in compare_settings(results, most, plain).items()
    ]
    seeds = describe_count(len(results["final"][most]), "seed")
    given = f"with pessimism {settings[most]:g} against {settings[plain]:g} ({seeds}), plans "
    return state_finding(claims, given)


def choose_settings(results: Results) -> tuple[int, int]:
    """Where the greatest pessimism stands, and where none does or that nearest to none."""
    settings = results["pessimism"]
    plain = settings.index(0.0) if 0.0 in settings else int(np.argmin(np.abs(settings)))
    return int(np.argmax(settings)), plain


def compare_settings(results: Results, most: int, plain: int) -> dict[str, tuple[int, str]]:
    """Of each claim whether pessimism has less (1), as much (0) or more (-1), and in words."""
    found = {}
    for key, what, form in CLAIMS:
        ours, theirs = results[key][most], results[key][plain]
        sign = judge(theirs, ours)
        word = {1: f"less {what}", 0: f"about as much {what}", -1: f"more {what}"}[sign]
        found[key] = sign, f"{word} ({np.mean(ours):{form}} against {np.mean(theirs):{form}})"
    return found


def describe(results: Results) -> str:
    """The lecture is right if great pessimism avoids doubt, visits less and returns less."""
    settings, (most, plain) = results["pessimism"], choose_settings(results)
    if most == plain:
        return "No training with more pessimism than 0 is done."
    compared = compare_settings(results, most, plain)
    claims = [(NAMES[key], sign) for key, (sign, _) in compared.items()]
    said = [words for _, words in compared.values()]
    seeds = describe_count(len(results["final"][most]), "seed")
    best = int(np.argmax([np.mean(one) for one in results["final"]]))
    return (
        f"With a pessimism of {settings[most]:g} against {settings[plain]:g} ({seeds}), plans met "
        f"{said[0]}, visited {said[1]} and got {said[2]}: {_describe_claims(claims)}.\n"
        f"The highest return, {np.mean(results['final'][best]):.1f}, is that of a pessimism of "
        f"{settings[best]:g}."
        f"{describe_optimism(results)}"
    )


def _describe_claims(claims: list[tuple[str, int]]) -> str:
    right, wrong = (
        [name for name, verdict in claims if (verdict == 1) == fits] for fits in (True, False)
    )
    if not wrong:
        return "as the lecture says"
    if not right:
        return "which is not what the lecture says"
    return f"as the lecture says of {join_words(right)}, but not of {join_words(wrong)}"


def describe_optimism(results: Results) -> str:
    """What a negative pessimism is."""
    negative = [x for x in results["pessimism"] if x < 0]
    if not negative:
        return ""
    listed = join_words([f"{x:g}" for x in negative])
    return (
        f" A negative pessimism ({listed}) is optimism: plans seek what the members disagree on."
    )


def draw(results: Results) -> str:
    # Zero has no place on a logarithmic axis, so settings stand at equal distances.
    labels = {float(i): f"{x:g}" for i, x in enumerate(results["pessimism"])}
    seeds = describe_count(len(results["final"][0]), "seed")

    def plot(title: str, key: str, note: str, unit: str) -> str:
        points = [(float(i), float(np.mean(one))) for i, one in enumerate(results[key])]
        low, high = ([float(f(one)) for one in results[key]] for f in (min, max))
        series = Series(key, points, 0, intervals=True, low=low, high=high)
        axis = "planner.pessimism (negative: optimism)"
        note = "; ".join(filter(None, (seeds, note)))
        return plot_lines(title, [series], axis, base=0.0, note=note, y_name=unit, x_labels=labels)

    return (
        plot("Return of the closing evaluation", "final", "", "return of an episode")
        + plot(
            "Disagreement where plans went",
            "doubt",
            "of a model of random data",
            "standard deviation over members of the predicted position",
        )
        + plot("Part of the room that plans visited", "coverage", "", "share of the cells")
    )


LESSON = Lesson(
    "caution",
    "What caution does to exploration",
    "that a planner that avoids what its members disagree on never visits it, so that nothing is "
    "learnt there and better returns are never found.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    state_only=True,
)
