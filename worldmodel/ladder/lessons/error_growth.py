"""How a model's error grows with the length of its rollouts."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.evaluation.report.svg import Series, plot_lines
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, Recording, observe_vectors
from worldmodel.ladder.statements import fit_power
from worldmodel.ladder.trainings import Study
from worldmodel.saved_run import Run
from worldmodel.spaces import map_state

RUNG = "v15"
EPISODES, STEPS = 4, 200
LENGTH, STARTS, SAMPLES = 50, 200, 4
SATURATED = 0.5  # share of the spread of states above which an error can grow no further


def list_labels(study: Study) -> list[str]:
    return [RUNG]


def measure(material: Material) -> Results:
    run = material.open(RUNG)
    recording = material.record(run, EPISODES, STEPS)
    length = min(LENGTH, int(recording.alive.sum(1).max()) // 2)
    return {"error": measure_growth(run, recording, length)}


@torch.no_grad()
def measure_growth(run: Run, recording: Recording, length: int) -> np.ndarray:
    """The root mean square error (length,) of open-loop predictions of the actions taken.

    The prediction is the mean of some rollouts; errors are in standard deviations of the states.
    """
    starts = recording.choose_starts(STARTS, length)
    windows = [(e, slice(t, t + length)) for e, t in starts]
    actions = torch.from_numpy(np.stack([recording.action[w] for w in windows]))
    truth = np.stack([recording.vector[e, w.start + 1 : w.stop + 1] for e, w in windows])
    first = observe_vectors(run, np.stack([recording.vector[e, w.start] for e, w in windows]))
    dynamics, count = run.model.dynamics, len(windows)
    start = map_state(first, lambda v: v.repeat(SAMPLES, *[1] * (v.dim() - 1)))
    states = dynamics.imagine(start, actions.repeat(SAMPLES, 1, 1), run.generator)
    found = dynamics.restore(dynamics.features(states))
    mean = found.view(SAMPLES, count, length, -1).mean(0).numpy()
    spread = recording.vector[:, :-1][recording.alive].std(0) + 1e-6
    return np.sqrt(np.square((mean - truth) / spread).mean((0, 2)))


def fit_growth(error: np.ndarray) -> tuple[float, float, int]:
    """The exponents of the error and of its sum along a rollout, and the steps they hold for.

    These are the steps before the error is half of the spread of the states, three at least.
    """
    small = np.flatnonzero(np.asarray(error) >= SATURATED)
    steps = max(3, int(small[0])) if len(small) else len(error)
    x, part = np.arange(1, steps + 1), np.maximum(error[:steps], 1e-9)
    return fit_power(x, part), fit_power(x, np.cumsum(part)), steps


def describe(results: Results) -> str:
    error = np.asarray(results["error"])
    single, total, steps = fit_growth(error)
    word = "about what" if abs(total - 2) < 0.35 else "less than" if total < 2 else "more than"
    return (
        f"Over the first {steps} steps the error of a state grew as T^{single:.2f} and its sum "
        f"along the rollout as T^{total:.2f}, {word} the bound T^2 allows; it was "
        f"{error[0]:.3f} standard deviations after one step and {error[-1]:.2f} after "
        f"{len(error)}."
    )


def draw(results: Results) -> str:
    error = np.asarray(results["error"])
    single, total, steps = fit_growth(error)
    x = np.arange(1, len(error) + 1)
    lines = []
    for i, (name, y, power) in enumerate(
        (("error of a state", error, single), ("sum along the rollout", np.cumsum(error), total))
    ):
        scale = np.exp(np.mean(np.log(np.maximum(y[:steps], 1e-9)) - power * np.log(x[:steps])))
        fit = [(float(t), float(scale * t**power)) for t in x[:steps]]
        lines.append(Series(name, list(zip(x.tolist(), y.tolist(), strict=True)), i))
        lines.append(Series(f"fit T^{power:.2f}", fit, f"r{i}"))
    note = "open loop along the actions taken; standard deviations of the states"
    return plot_lines(
        "Model error by rollout length", lines, "steps", log=True, log_x=True, note=note
    )


LESSON = Lesson(
    "error_growth",
    "Error against rollout length",
    "An error of epsilon at each step moves the states that follow, so that a rollout of T steps "
    "is wrong by up to epsilon T^2 in total.",
    list_labels,
    measure,
    describe,
    draw,
    state_only=True,
)
