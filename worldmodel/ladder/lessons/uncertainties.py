"""Aleatoric against epistemic uncertainty: noise of the world, and lack of data."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.report.html import render_table
from worldmodel.ladder.grid import CELLS, EDGE, count_visits, make_grid
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.maps import plot_map
from worldmodel.ladder.material import Material, measure_uncertainties, read_vectors
from worldmodel.ladder.statements import join_words
from worldmodel.ladder.trainings import ROOM_DATA, Study
from worldmodel.model.dynamics import Simulator

REPEATS = 16  # steps of the simulator from one state
NOISY = 0.01  # standard deviation of the true step above which a place is noisy
CARPET = -0.2  # y below which the room is noisy, as the task says
NATS = 1.0  # by which entropies differ clearly
SHARE = 0.25  # of what noise adds, within which an entropy is about as high as that of noise
TIMES = 1.5  # by which disagreements differ clearly
MEASURES = {
    "entropy": ("Predicted entropy", "nats, up to a constant"),
    "disagreement": (
        "Disagreement of the members",
        "standard deviation over members of the predicted position",
    ),
}


def list_labels(study: Study) -> list[str]:
    return [ROOM_DATA]


def measure(material: Material) -> Results:
    run, grid = material.open(ROOM_DATA), make_grid()
    points = grid.reshape(-1, 2)
    simulator = material.make_simulator(run)
    free, noise = probe_room(simulator, points)
    seen = count_visits(read_vectors(material.runs[ROOM_DATA][0]), points)
    entropy, disagreement = measure_uncertainties(run, points)
    shape = grid.shape[:2]
    return {
        "free": free.reshape(shape),
        "noisy": (noise > NOISY).reshape(shape),
        "visits": seen.reshape(shape),
        "entropy": entropy.reshape(shape),
        "disagreement": disagreement.reshape(shape),
    }


def probe_room(simulator: Simulator, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a point (N,2) can be stood on, and the true std of a step that stands still."""
    states = np.repeat(points.astype(np.float64), REPEATS, 0)
    after, _, _ = simulator.step(states, np.zeros((len(states), 2), np.float32), seed=0)
    moved = (after - states).reshape(len(points), REPEATS, 2)
    width = 2 * EDGE / CELLS
    return np.abs(np.median(moved, 1)).max(1) < width / 2, moved.std(1).mean(1)


def split_cells(results: Results) -> dict[str, np.ndarray]:
    """Which cells that can be stood on are of each kind."""
    free, noisy, visits = (np.asarray(results[key]) for key in ("free", "noisy", "visits"))
    free, noisy, seen = free.astype(bool), noisy.astype(bool), visits > 0
    return {
        "visited, quiet": free & seen & ~noisy,
        "visited, noisy": free & seen & noisy,
        "unvisited, quiet": free & ~seen & ~noisy,
        "unvisited, noisy": free & ~seen & noisy,
    }


def average_kinds(results: Results, key: str) -> dict[str, float]:
    """The mean of a measure over the cells of each kind that exists, and over all unvisited."""
    kinds, values = split_cells(results), np.asarray(results[key], float)
    kinds["unvisited"] = kinds["unvisited, quiet"] | kinds["unvisited, noisy"]
    return {name: float(values[own].mean()) for name, own in kinds.items() if own.any()}


def describe(results: Results) -> str:
    kinds = split_cells(results)
    seen = kinds["visited, quiet"] | kinds["visited, noisy"]
    free = np.logical_or.reduce(list(kinds.values()))
    return (
        f"Random actions visited {seen.sum() / max(1, free.sum()):.0%} of the room.\n"
        f"{describe_entropy(results)}\n{describe_disagreement(results)}"
    )


def describe_entropy(results: Results) -> str:
    """The lecture: entropy is high where the world is noisy."""
    means = average_kinds(results, "entropy")
    if not {"visited, quiet", "visited, noisy"} <= set(means):
        return "Entropy cannot be compared: one of the quiet and noisy parts was not visited."
    noisy, quiet = means["visited, noisy"], means["visited, quiet"]
    more = noisy - quiet
    verdict = (
        "as the lecture says"
        if more > NATS
        else "the opposite of what the lecture says"
        if more < -NATS
        else "hardly what the lecture says"
    )
    said = (
        f"Where it was visited, the predicted entropy is {noisy:.1f} nats in the noisy part and "
        f"{quiet:.1f} in the quiet one, {verdict}."
    )
    if "unvisited" not in means:
        return said
    apart = noisy - means["unvisited"]
    if abs(apart) <= max(NATS, SHARE * abs(more)):
        return (
            f"{said} In the unvisited part it is {means['unvisited']:.1f}, about as high as in "
            "the noisy one: entropy alone does not tell noise from ignorance here."
        )
    word = "lower" if apart > 0 else "higher"
    return f"{said} In the unvisited part it is {means['unvisited']:.1f}, clearly {word}."


def describe_disagreement(results: Results) -> str:
    """The lecture: what the model does not know shows in the members' disagreement."""
    means = average_kinds(results, "disagreement")
    if "unvisited" not in means:
        return "Every part was visited, so that disagreement has nothing unknown to show."
    known = {k: means[k] for k in ("visited, quiet", "visited, noisy") if k in means}
    if not known:
        return "No part was visited, so that disagreement has nothing known to compare with."
    name = max(known, key=lambda k: known[k])
    ratio = means["unvisited"] / max(1e-12, known[name])
    verdict = (
        "as the lecture says"
        if ratio >= TIMES
        else "the opposite of what the lecture says"
        if ratio <= 1 / TIMES
        else "too little to show what the lecture says"
    )
    listed = join_words([f"{x:.2g} in the {k.replace(',', '')} part" for k, x in known.items()])
    return (
        f"The members' disagreement is {means['unvisited']:.2g} in the unvisited part, "
        f"{listed}: {ratio:.1f} times that of the {name.replace(',', '')} part, "
        f"{verdict}."
    )


def draw(results: Results) -> str:
    kinds, parts, rows = split_cells(results), [], []
    free = np.logical_or.reduce(list(kinds.values()))
    unseen = kinds["unvisited, quiet"] | kinds["unvisited, noisy"]
    note = (
        f"first seed; dots: never visited; carpet (noisy): y below {CARPET}; gap: wall with door"
    )
    for key, (title, unit) in MEASURES.items():
        values = np.where(free, np.asarray(results[key], float), np.nan)
        parts.append(plot_map(title, values, EDGE, note, unit, unseen))
    shown = np.full(free.shape, np.nan)
    for i, own in enumerate(kinds.values()):
        shown[own] = i
    names = {float(i): name for i, (name, own) in enumerate(kinds.items()) if own.any()}
    parts.append(plot_map("The room", shown, EDGE, "after random actions", names=names))
    means = {key: average_kinds(results, key) for key in MEASURES}
    for name, own in kinds.items():
        if own.any():
            entropy, doubt = means["entropy"][name], means["disagreement"][name]
            rows.append((name, str(int(own.sum())), f"{entropy:.1f}", f"{doubt:.2g}"))
    head = ("part of the room", "cells", "entropy (nats)", "disagreement")
    return "".join([*parts, render_table("Means over the cells", head, rows)])


LESSON = Lesson(
    "uncertainties",
    "Noise is not ignorance",
    "The entropy of a prediction is high where the world is noisy, which no data mends; what the "
    "model does not know shows in how much the members of an ensemble disagree.",
    list_labels,
    measure,
    describe,
    draw,
    state_only=True,
)
