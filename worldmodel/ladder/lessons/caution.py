"""What pessimism does to exploration."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.report.svg import REFERENCES, Series, plot_lines
from worldmodel.ladder.grid import count_visits, make_grid, probe_room
from worldmodel.ladder.learning_curves import read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, measure_uncertainties, read_vectors
from worldmodel.ladder.references import EXPERT
from worldmodel.ladder.statements import (
    Claim,
    describe_count,
    join_words,
    judge,
    name_verdict,
    state_absence,
    state_finding,
)
from worldmodel.ladder.trainings import ROOM, ROOM_DATA, Study, label_caution

POINTS = 300  # visited states whose disagreement is measured
# What the lecture expects to be less with pessimism, as words of a clause, and its format.
CLAIMS = (
    ("doubt", ("less", "about as much", "more"), "disagreement", ".2g"),
    ("unsure", ("fewer", "about as many", "more"), "disputed cells", ".0%"),
    ("final", ("less", "about as much", "more"), "return", ".1f"),
)
NAMES = {"doubt": "disagreement", "unsure": "the disputed cells", "final": "the return"}
VERBS = {"doubt": "met", "unsure": "visited", "final": "got"}
DISPUTED = 0.25  # of the cells, those with the highest disagreement
PRESET = "v2_ensemble"  # of all trainings here


def list_labels(study: Study) -> list[str]:
    return [ROOM_DATA, *[label_caution(pessimism) for pessimism in study.cautions]]


def measure(material: Material) -> Results:
    """Of the episodes that were planned: where they were, and how much the members of one fixed
    ensemble of random data disagree there.
    """
    keys = ("pessimism", "final", "coverage", "doubt", "unsure")
    found: Results = {key: [] for key in keys}
    points, reference = make_grid().reshape(-1, 2), material.open(ROOM_DATA)
    free, _ = probe_room(material.make_simulator(reference), points)
    disputed = find_disputed(measure_uncertainties(reference, points)[1], free)
    for pessimism in material.study.cautions:
        label = label_caution(pessimism)
        config = material.open(label).config
        coverage, doubt, unsure = [], [], []
        for path in material.runs[label]:
            visited = read_vectors(path, config.train.prefill)
            seen = count_visits(visited, points) > 0
            coverage.append(float(seen.mean()))
            unsure.append(float(seen[disputed].mean()))
            some = visited[:: max(1, len(visited) // POINTS)]
            doubt.append(float(measure_uncertainties(reference, some)[1].mean()))
        found["pessimism"].append(pessimism)
        found["final"].append(read_curves(material.runs[label])["final"])
        found["coverage"].append(coverage)
        found["doubt"].append(doubt)
        found["unsure"].append(unsure)
        found["steps"] = config.run.frames
    found["references"] = material.measure_references(label_caution(material.study.cautions[0]))
    return found


def find_disputed(disagreement: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Which cells (N,) that can be stood on have the highest disagreement (N,)."""
    return free & (disagreement >= np.quantile(disagreement[free], 1 - DISPUTED))


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
    for key, (less, same, more), what, form in CLAIMS:
        ours, theirs = results[key][most], results[key][plain]
        sign = judge(theirs, ours)
        word = {1: less, 0: same, -1: more}[sign]
        found[key] = (
            sign,
            f"{word} {what} ({np.mean(ours):{form}} against {np.mean(theirs):{form}})",
        )
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
        "Disagreement is that of one fixed reference ensemble, which learnt from random actions "
        "alone. Its mean is over all steps; a cell counts if it was visited once. The disputed "
        f"cells are the {DISPUTED:.0%} of the room where its members disagree most. The planner's "
        "own ensemble, which learns on, may disagree elsewhere.\n"
        f"Of all cells, plans visited {np.mean(results['coverage'][most]):.0%} against "
        f"{np.mean(results['coverage'][plain]):.0%}.\n"
        f"The highest return, {np.mean(results['final'][best]):.1f}, is that of a pessimism of "
        f"{settings[best]:g}."
        f"{describe_optimism(results)}\n"
        "A pessimism of x lowers the score of a plan by x times the variance of its return over "
        "the members, so that the x that changes plans depends on the task."
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
    about = f"{PRESET} in {ROOM}, {describe_count(results['steps'], 'step')}, {seeds}"

    def plot(title: str, key: str, note: str, unit: str) -> str:
        points = [(float(i), float(np.mean(one))) for i, one in enumerate(results[key])]
        low, high = ([float(f(one)) for one in results[key]] for f in (min, max))
        series = [Series(key, points, 0, intervals=True, low=low, high=high)]
        if key == "final" and EXPERT in results["references"]:
            level = results["references"][EXPERT]
            ends = [(x, level) for x in (points[0][0], points[-1][0])]
            series[0].name = "return"
            series.append(Series(f"{EXPERT} {level:.1f}", ends, REFERENCES[0]))
        axis = "planner.pessimism"
        if min(results["pessimism"]) < 0:
            axis += " (negative: optimism)"
        note = "; ".join(filter(None, (about, note)))
        return plot_lines(title, series, axis, base=0.0, note=note, y_name=unit, x_labels=labels)

    return (
        plot("Return of the closing evaluation", "final", "", "return of an episode")
        + plot(
            "Disagreement where plans went",
            "doubt",
            "of one fixed reference ensemble of random data",
            "standard deviation over members of the predicted position",
        )
        + plot(
            "Disputed cells that plans visited",
            "unsure",
            f"the {DISPUTED:.0%} of cells where the reference ensemble disagrees most",
            "share of these cells",
        )
        + plot("Part of the room that plans visited", "coverage", "", "share of all cells")
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
    task=ROOM,
)
