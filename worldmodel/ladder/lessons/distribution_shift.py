"""0.5 against 1.0: where plans leave the data, and the model's error there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.prediction_metrics import spearman
from worldmodel.evaluation.report.html import render_table
from worldmodel.evaluation.report.svg import Series, plot_lines
from worldmodel.ladder.colours import choose_style
from worldmodel.ladder.learning_curves import match_seeds, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, observe_vectors, read_vectors
from worldmodel.ladder.references import SPINNING, only_spin
from worldmodel.ladder.statements import (
    APART,
    Claim,
    Verdict,
    combine_verdicts,
    describe_count,
    describe_mean,
    describe_verdict,
    join_words,
    judge,
    name_verdict,
    state_finding,
)
from worldmodel.ladder.trainings import Study

ONCE, AGAIN = "v05", "v10"
EPISODES, STEPS = 4, 200
DOTS = 150
LARGER = 1.2  # times a number, above which another is clearly larger
NEAR, FEW = 0.3, 10  # distance that is near the data; states that are too few for a median


def list_labels(study: Study) -> list[str]:
    return [ONCE, AGAIN]


def measure(material: Material) -> Results:
    """Distances are Euclidean, in units of the first rung's standard deviations."""
    scale = read_vectors(material.runs[ONCE][0]).std(0) + 1e-6
    found: Results = {}
    for label in (ONCE, AGAIN):
        run = material.open(label)
        recording = material.record(run, EPISODES, STEPS)
        alive = recording.alive
        before, after = recording.vector[:, :-1][alive], recording.vector[:, 1:][alive]
        train = read_vectors(material.runs[label][0])
        expected = predict_next(run, before, recording.action[alive])
        found[label] = {
            "distance": measure_distances(before / scale, train / scale),
            "error": np.linalg.norm((expected - after) / scale, axis=-1),
        }
    return {
        "rungs": found,
        "steps": {label: material.open(label).config.run.frames for label in (ONCE, AGAIN)},
        "curves": {label: read_curves(material.runs[label]) for label in (ONCE, AGAIN)},
        "references": material.measure_references(ONCE),
    }


@torch.no_grad()
def predict_next(run, vectors: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The vector (N,n) that the model's members expect on average after vectors and actions."""
    model, feat = run.model, run.model.dynamics.features(observe_vectors(run, vectors))
    members: Tensor = model.predict_members(feat, torch.from_numpy(actions))
    return model.dynamics.restore(members.mean(0)).numpy()


def measure_distances(points: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The distance (N,) of each point (N,n) to the nearest row of the data (M,n)."""
    return torch.cdist(torch.from_numpy(points), torch.from_numpy(data)).min(1).values.numpy()


def compute_medians(rungs: Results) -> tuple[Results, Results, list[float]]:
    """The median distance and error of each rung, and how many times as large the first's are."""
    once, again = (
        {k: float(np.median(rungs[label][k])) for k in ("distance", "error")}
        for label in (ONCE, AGAIN)
    )
    return once, again, [once[k] / max(1e-9, again[k]) for k in ("distance", "error")]


def summarize(results: Results) -> str:
    _, _, ratios = compute_medians(results["rungs"])
    far, wrong = ratios
    sides = [1 if ratio > LARGER else -1 if ratio < 1 / LARGER else 0 for ratio in ratios]
    left = Claim(
        combine_verdicts(map(name_verdict, sides)),
        f"with random data alone ({ONCE}), plans leave it {far:.2g} times as far as after refits "
        f"({AGAIN}) and meet {wrong:.2g} times the error",
    )
    return state_finding([left, claim_returns(results)])


def claim_returns(results: Results) -> Claim:
    """Refits raise the return."""
    curves = match_seeds(results["curves"])
    once, again = (curves[label]["final"] for label in (ONCE, AGAIN))
    if not once:
        return Claim(Verdict.UNMEASURED, "their returns have no seed in common")
    sign = judge(again, once)
    what = {1: "raise", 0: "do not clearly raise", -1: "lower"}[sign]
    means = f"{np.mean(once):.1f} to {np.mean(again):.1f}"
    seeds = describe_count(len(once), "seed")
    levels = results["references"]
    if only_spin(levels, [float(np.mean(x)) for x in (once, again)]):
        said = f"returns stay near those of spinning, {levels[SPINNING]:.1f} ({means}, {seeds})"
        return Claim(Verdict.UNCLEAR, said)
    return Claim(name_verdict(sign), f"refits {what} returns ({means}, {seeds})")


def describe(results: Results) -> str:
    rungs = results["rungs"]
    once, again, ratios = compute_medians(rungs)
    verdict = {
        2: "as the lecture says",
        1: "which is only half of what the lecture says",
        0: "which is not what the lecture says",
    }[sum(ratio > LARGER for ratio in ratios)]
    return (
        f"Trained on random data alone ({ONCE}), plans visit states at a distance of "
        f"{once['distance']:.2g} standard deviations from the nearest training state, "
        f"{ratios[0]:.2g} times as far as after refits ({AGAIN}, {again['distance']:.2g}); the "
        f"model's error there is {once['error']:.2g}, {ratios[1]:.2g} times that after refits "
        f"({again['error']:.2g}): {verdict}. All are medians of the first seed.\n"
        f"{describe_correlation(rungs)}{describe_near(rungs)}\n{describe_returns(results)}"
    )


def describe_correlation(rungs: Results) -> str:
    whole = [np.concatenate([one[k] for one in rungs.values()]) for k in ("distance", "error")]
    own = [
        f"{spearman(np.asarray(one['distance']), np.asarray(one['error'])):.2f} within {label}"
        for label, one in rungs.items()
    ]
    return (
        f"The rank correlation of error and distance is {spearman(*whole):.2f} over both, and "
        f"{join_words(own)}."
    )


def describe_near(rungs: Results) -> str:
    """Which model is better where both know the states, as a sentence after others."""
    near = [
        np.asarray(rungs[label]["error"])[np.asarray(rungs[label]["distance"]) < NEAR]
        for label in (ONCE, AGAIN)
    ]
    if min(map(len, near)) < FEW:
        return ""
    once, again = (float(np.median(one)) for one in near)
    said = (
        f" At distances below {NEAR:g} the median error is {once:.2g} for {ONCE} and {again:.2g} "
        f"for {AGAIN}"
    )
    if once * LARGER < again:
        return (
            f"{said}: the model of random data is the better one near its data, which is all that "
            f"it has to fit, while {AGAIN} has as well what its plans met."
        )
    return f"{said}."


def describe_returns(results: Results) -> str:
    curves, levels = match_seeds(results["curves"]), results["references"]
    once, again = (curves[label]["final"] for label in (ONCE, AGAIN))
    if not once:
        return f"Returns cannot be compared: {APART}."
    said = f"Returns are {describe_mean(once)} and {describe_mean(again)}"
    if only_spin(levels, [float(np.mean(x)) for x in (once, again)]):
        return (
            f"{said}, both near that of spinning alone ({levels[SPINNING]:.1f}): a difference "
            "between them shows no success."
        )
    said += f": {describe_verdict(judge(again, once), len(again))}"
    if only_spin(levels, [float(np.mean(again))]):
        said += (
            f"; with refits the pendulum still only spins, as spinning alone returns "
            f"{levels[SPINNING]:.1f}"
        )
    return f"{said}."


def draw(results: Results) -> str:
    dots, rows = [], []
    for label, one in results["rungs"].items():
        every = max(1, len(one["error"]) // DOTS)
        points = list(zip(one["distance"][::every], one["error"][::every], strict=True))
        points = [(x, y) for x, y in points if x > 0 and y > 0]
        dots.append(Series(label, points, choose_style(label), dots=True))
        quartiles = [np.quantile(one[k], (0.25, 0.5, 0.75)) for k in ("distance", "error")]
        rows.append((label, *(f"{b:.2g} ({a:.2g} to {c:.2g})" for a, b, c in quartiles)))
    scatter = plot_lines(
        "Error of one step at the states that plans visit",
        dots,
        "distance to the nearest training state",
        log=True,
        log_x=True,
        note=f"new episodes after training, first seed, against all its training data"
        f"{describe_data(results['steps'])}; distances are Euclidean, in standard deviations of "
        "the random data",
        y_name="error of a predicted step",
    )
    head = ("rung", "distance", "error")
    table = render_table("Medians and quartiles, in standard deviations", head, rows)
    finals = plot_finals(
        "Returns of the closing evaluation", results["curves"], "", results["references"]
    )
    return scatter + finals + table


def describe_data(steps: Results) -> str:
    """How many steps each rung had, as the end of a note."""
    if len(set(steps.values())) == 1:
        return f" ({describe_count(steps[ONCE], 'step')} each)"
    return f" ({join_words([f'{count:,} steps of {label}' for label, count in steps.items()])})"


LESSON = Lesson(
    "distribution_shift",
    "0.5 against 1.0: where plans leave the data",
    "that a model of random data is wrong where its plans lead, as nothing was seen there, and "
    "that refitting with what they met mends it and raises the return.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    state_only=True,
)
