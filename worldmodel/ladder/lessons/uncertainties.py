"""Aleatoric against epistemic uncertainty: noise of the world, and lack of data."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.grid import CELLS, EDGE, count_visits, make_grid
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.maps import plot_map
from worldmodel.ladder.material import Material, measure_uncertainties, read_vectors
from worldmodel.ladder.trainings import ROOM_DATA, Study
from worldmodel.model.dynamics import Simulator

REPEATS = 16  # steps of the simulator from one state
NOISY = 0.01  # standard deviation of the true step above which a place is noisy
PLACES = ("quiet", "noisy", "unvisited")
MEASURES = {"entropy": "predicted entropy", "disagreement": "disagreement of the members"}


def list_labels(study: Study) -> list[str]:
    return [ROOM_DATA]


def measure(material: Material) -> Results:
    run, grid = material.open(ROOM_DATA), make_grid()
    points = grid.reshape(-1, 2)
    simulator = material.make_simulator(run)
    free, noise = probe_room(simulator, points)
    seen = count_visits(read_vectors(material.runs[ROOM_DATA][0]), points)
    entropy, disagreement = measure_uncertainties(run, points)
    place = np.where(seen == 0, 2, np.where(noise > NOISY, 1, 0))
    shape = grid.shape[:2]
    return {
        "place": np.where(free, place, -1).reshape(shape),
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


def average_places(results: Results, key: str) -> dict[str, float]:
    """The mean of a measure over the quiet, the noisy and the unvisited cells."""
    place, values = np.asarray(results["place"]), np.asarray(results[key])
    return {
        name: float(values[place == i].mean())
        for i, name in enumerate(PLACES)
        if (place == i).any()
    }


def describe(results: Results) -> str:
    means = {key: average_places(results, key) for key in MEASURES}
    highest = {key: max(own, key=lambda name: own[name]) for key, own in means.items()}
    agrees = highest["disagreement"] == "unvisited" and highest["entropy"] != "unvisited"
    share = 1 - np.mean(np.asarray(results["place"])[np.asarray(results["place"]) >= 0] == 2)
    listed = {
        key: ", ".join(f"{value:.2g} in the {name} part" for name, value in own.items())
        for key, own in means.items()
    }
    return (
        f"Random actions saw {share:.0%} of the room. The predicted entropy (in nats) was "
        f"{listed['entropy']}, and the disagreement {listed['disagreement']}: the entropy points "
        f"at the {highest['entropy']} part and the disagreement at the "
        f"{highest['disagreement']} part, {'as' if agrees else 'which is not what'} the lecture "
        "says."
    )


def draw(results: Results) -> str:
    place = np.asarray(results["place"])
    parts = []
    for key, title in MEASURES.items():
        values = np.where(place >= 0, np.asarray(results[key], float), np.nan)
        means = average_places(results, key)
        note = "mean: " + ", ".join(f"{name} {value:.3g}" for name, value in means.items())
        parts.append(plot_map(f"Where the model is uncertain: {title}", values, note))
    shown = np.where(place >= 0, place, np.nan).astype(float)
    note = "light: visited and quiet; middle: visited and noisy; dark: never visited"
    return "".join([*parts, plot_map("The room", shown, note)])


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
