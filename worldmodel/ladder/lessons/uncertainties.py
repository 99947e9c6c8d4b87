"""Aleatoric against epistemic uncertainty: noise of the world, and lack of data."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.report.html import render_table
from worldmodel.ladder.grid import EDGE, count_visits, make_grid, probe_room
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.maps import plot_map
from worldmodel.ladder.material import Material, measure_uncertainties, read_vectors
from worldmodel.ladder.statements import (
    Claim,
    Verdict,
    combine_verdicts,
    join_words,
    name_verdict,
    state_finding,
)
from worldmodel.ladder.trainings import ROOM, ROOM_DATA, Study

NOISY = 0.01  # standard deviation of the true step above which a place is noisy
CARPET = -0.2  # y below which the room is noisy, as the task says
NATS = 1.0  # by which entropies differ clearly
SHARE = 0.25  # of what noise adds, within which an entropy is about as high as that of noise
TIMES = 1.5  # by which disagreements differ clearly
MEASURES = {
    "entropy": (
        "Predicted entropy",
        "nats, up to a constant; of a density, so that it may be negative",
    ),
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


def summarize(results: Results) -> str:
    return state_finding([claim_entropy(results), claim_disagreement(results)], after=" (1 seed)")


def claim_entropy(results: Results) -> Claim:
    means = average_kinds(results, "entropy")
    sign = judge_entropy(means)
    if sign is None:
        why = "entropy cannot be compared as a quiet or noisy part was not visited"
        return Claim(Verdict.UNMEASURED, why)
    noisy, quiet = means["visited, noisy"], means["visited, quiet"]
    return Claim(
        name_verdict(sign),
        f"where visited, entropy is {noisy:.1f} nats in noisy and {quiet:.1f} in quiet parts",
    )


def judge_entropy(means: dict[str, float]) -> int | None:
    """1 where entropy is clearly higher in the noisy part, -1 where it is lower; None where one of
    the parts was not visited.
    """
    if not {"visited, quiet", "visited, noisy"} <= set(means):
        return None
    more = means["visited, noisy"] - means["visited, quiet"]
    return 1 if more > NATS else -1 if more < -NATS else 0


def claim_disagreement(results: Results) -> Claim:
    means = average_kinds(results, "disagreement")
    found = compare_disagreement(means)
    if not found:
        part = "no" if "unvisited" in means else "every"
        why = f"disagreement cannot be compared as {part} part was visited"
        return Claim(Verdict.UNMEASURED, why)
    verdict = combine_verdicts(name_verdict(sign) for _, sign in found.values())
    listed = [
        f"{ratio:.2g} times that in {name.split()[-1]}" for name, (ratio, _) in found.items()
    ]
    low = [i for i, (_, sign) in enumerate(found.values()) if sign != 1]
    if low:  # said once
        listed[low[0]] = f"only {listed[low[0]]}"
    return Claim(verdict, f"disagreement in unvisited parts is {join_words(listed)} visited parts")


def compare_disagreement(means: dict[str, float]) -> dict[str, tuple[float, int]]:
    """How many times as much as in each visited part members disagree in the unvisited part, and
    the verdict: 1 where that is clearly more, -1 where it is less. Parts may be missing.
    """
    found: dict[str, tuple[float, int]] = {}
    for name in ("visited, quiet", "visited, noisy"):
        if name in means and "unvisited" in means:
            ratio = means["unvisited"] / max(1e-12, means[name])
            found[name] = ratio, 1 if ratio >= TIMES else -1 if ratio <= 1 / TIMES else 0
    return found


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
    sign = judge_entropy(means)
    if sign is None:
        return "Entropy cannot be compared: one of the quiet and noisy parts was not visited."
    noisy, quiet = means["visited, noisy"], means["visited, quiet"]
    more = noisy - quiet
    verdict = {
        1: "as the lecture says",
        0: "hardly what the lecture says",
        -1: "the opposite of what the lecture says",
    }[sign]
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
    found = compare_disagreement(means)
    if "unvisited" not in means:
        return "Every part was visited, so that disagreement has nothing unknown to show."
    if not found:
        return "No part was visited, so that disagreement has nothing known to compare with."
    words = []
    for name, (ratio, sign) in found.items():
        verdict = {
            1: "as the lecture says",
            0: f"less than the {TIMES:g} times that count as clear here",
            -1: "the opposite of what the lecture says",
        }[sign]
        words.append(
            f"{ratio:.2g} times that of the {name.replace(',', '')} part ({means[name]:.2g}), "
            f"{verdict}"
        )
    return (
        f"The members' disagreement is {means['unvisited']:.2g} in the unvisited part: "
        f"{'; '.join(words)}."
    )


def draw(results: Results) -> str:
    kinds, parts, rows = split_cells(results), [], []
    free = np.logical_or.reduce(list(kinds.values()))
    unseen = kinds["unvisited, quiet"] | kinds["unvisited, noisy"]
    note = (
        f"first seed, {ROOM}; dots: never visited; carpet (noisy): left of the wall and below y = "
        f"{CARPET}; gap: wall with door"
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
    "that the entropy of a prediction is high where the world is noisy, and that what a model "
    "does not know shows in how much the members of an ensemble disagree.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    state_only=True,
    task=ROOM,
)
