"""0.5 against 1.0: where plans leave the data, and the model's error there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.prediction_metrics import spearman
from worldmodel.evaluation.report.svg import Series, plot_bars, plot_lines
from worldmodel.ladder.learning_curves import read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, observe_vectors, read_vectors
from worldmodel.ladder.statements import describe_mean, describe_verdict, judge
from worldmodel.ladder.trainings import Study

ONCE, AGAIN = "v05", "v10"
EPISODES, STEPS = 4, 200
DOTS, BINS = 150, 8


def list_labels(study: Study) -> list[str]:
    return [ONCE, AGAIN]


def measure(material: Material) -> Results:
    """Distances are Euclidean, in units of the first rung's standard deviations."""
    scale = read_vectors(material.runs[ONCE][0]).std(0) + 1e-6
    found = {}
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
            "final": read_curves(material.runs[label])["final"],
        }
    return found


@torch.no_grad()
def predict_next(run, vectors: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The vector (N,n) that the model's members expect on average after vectors and actions."""
    model, feat = run.model, run.model.dynamics.features(observe_vectors(run, vectors))
    members: Tensor = model.predict_members(feat, torch.from_numpy(actions))
    return model.dynamics.restore(members.mean(0)).numpy()


def measure_distances(points: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The distance (N,) of each point (N,n) to the nearest row of the data (M,n)."""
    return torch.cdist(torch.from_numpy(points), torch.from_numpy(data)).min(1).values.numpy()


def describe(results: Results) -> str:
    middle = {
        label: {k: float(np.median(one[k])) for k in ("distance", "error")}
        for label, one in results.items()
    }
    once, again = middle[ONCE], middle[AGAIN]
    farther = once["distance"] / max(1e-9, again["distance"])
    worse = once["error"] / max(1e-9, again["error"])
    whole = [np.concatenate([one[k] for one in results.values()]) for k in ("distance", "error")]
    finals = [results[label]["final"] for label in (ONCE, AGAIN)]
    return (
        f"Of random data alone, plans visit states {farther:.2g} times as far from the data as "
        f"after refits, with {worse:.2g} times the error (medians); error and distance correlate "
        f"with {spearman(*whole):.2f}. Returns were {describe_mean(finals[0])} and "
        f"{describe_mean(finals[1])}: "
        f"{describe_verdict(judge(finals[1], finals[0]), len(finals[0]))}."
    )


def draw(results: Results) -> str:
    dots = []
    for i, (label, one) in enumerate(results.items()):
        every = max(1, len(one["error"]) // DOTS)
        points = list(zip(one["distance"][::every], one["error"][::every], strict=True))
        points = [(x, y) for x, y in points if x > 0 and y > 0]
        dots.append(Series(label, points, i, dots=True))
    rows = []
    for label, one in results.items():
        for key in ("distance", "error"):
            low, middle, high = np.quantile(one[key], (0.25, 0.5, 0.75)).tolist()
            rows.append((f"{label}, {key}", middle, low, high))
    scatter = plot_lines(
        "Error of one step at the states that plans visit",
        dots,
        "distance to the training set",
        log=True,
        log_x=True,
        note="both in standard deviations of the random data",
    )
    return scatter + plot_bars("Medians", rows, note="line: from quarter to quarter")


LESSON = Lesson(
    "distribution_shift",
    "0.5 against 1.0: where plans leave the data",
    "A model of random data is wrong exactly where plans lead, as nothing was seen there; adding "
    "what the plans met to the data and fitting again mends it.",
    list_labels,
    measure,
    describe,
    draw,
    state_only=True,
)
