"""How a model's error grows with the length of its rollouts."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.evaluation.report.svg import Series, plot_lines
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material, Recording, observe_vectors
from worldmodel.ladder.statements import Claim, Verdict, join_words, state_finding
from worldmodel.ladder.trainings import Study
from worldmodel.saved_run import Run
from worldmodel.spaces import map_state

RUNG = "v15"
EPISODES, STEPS = 4, 200
LENGTH, STARTS, SAMPLES = 50, 200, 4
SATURATED = 0.9  # of the mean error of the steps that follow, from which on it is called saturated
EARLY = 0.7  # of the steps, within which it has to be so
EDGES = (1, 5, 10, 15, 20, 30, 50)  # between which the growth is measured


def list_labels(study: Study) -> list[str]:
    return [RUNG]


def measure(material: Material) -> Results:
    run = material.open(RUNG)
    recording = material.record(run, EPISODES, STEPS)
    length = min(LENGTH, int(recording.alive.sum(1).max()) // 2)
    count = len(recording.choose_starts(STARTS, length))
    return {"error": measure_growth(run, recording, length), "starts": count}


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


def find_saturation(error: np.ndarray) -> int | None:
    """The step from which the error hardly grows any more; None if it grows nearly to the end."""
    steps_left = np.arange(len(error), 0, -1)
    mean_after = np.cumsum(error[::-1])[::-1] / steps_left
    step = int(np.argmax(error >= SATURATED * mean_after)) + 1
    return step if step <= EARLY * len(error) else None


def measure_slope(y: np.ndarray, first: int, last: int) -> float:
    """The exponent p of y = c T^p between two steps (the first step is 1)."""
    ends = np.maximum([y[first - 1], y[last - 1]], 1e-12)
    return float(np.log(ends[1] / ends[0]) / np.log(last / first))


def measure_slopes(error: np.ndarray) -> dict[tuple[int, int], float]:
    """The exponents of the error's sum between edges, up to where the error saturates."""
    end = find_saturation(error) or len(error)
    edges = [*(edge for edge in EDGES if edge < end), end]
    total = np.cumsum(error)
    pairs = zip(edges, edges[1:], strict=False)
    return {(a, b): measure_slope(total, a, b) for a, b in pairs}


def summarize(results: Results) -> str:
    error = np.asarray(results["error"], float)
    first = f"{error[0]:.2g} standard deviations"
    given = f"with the first step's error ({first}) as epsilon, the sum "
    excess = find_excess(error)
    if excess is None:
        stays = Claim(Verdict.AGREES, f"stays within epsilon T^2 for all {len(error)} steps")
        return state_finding([stays], given, " (1 seed)")
    above = f"exceeds epsilon T^2 from step {excess} on"
    unmet = ", which does not refute the bound but shows an unmet assumption (1 seed)"
    return state_finding([Claim(Verdict.DISAGREES, above)], given, unmet)


def describe(results: Results) -> str:
    error = np.asarray(results["error"], float)
    count, slopes = len(error), measure_slopes(error)
    listed = join_words([f"T^{p:.1f} over steps {a} to {b}" for (a, b), p in slopes.items()])
    said = (
        f"The error of a predicted state is {error[0]:.2g} standard deviations after one step and "
        f"{error[-1]:.2g} after {count}."
    )
    if slopes:
        said += f"\nIts sum along the rollout grew as {listed}{_describe_change(slopes)}."
    end = find_saturation(error)
    if end:
        after = error[end - 1 :]
        said += (
            f" From about step {end} on the error of a state hardly grows any more: it lies "
            f"between {after.min():.2g} and {after.max():.2g}, {after.mean():.2g} on average."
        )
    return f"{said}\n{describe_bound(error)}"


def _describe_change(slopes: dict[tuple[int, int], float]) -> str:
    """Between which steps growth is faster than T^2, by the exponents as they are written."""
    fast = [pair for pair, p in slopes.items() if round(p, 1) > 2]
    if not fast:
        return ": never faster than T^2"
    if len(fast) == len(slopes):
        return ": faster than T^2 all along"
    spans: list[list[int]] = []
    for a, b in fast:
        if spans and spans[-1][1] == a:
            spans[-1][1] = b
        else:
            spans.append([a, b])
    listed = join_words([f"from {a} to {b}" for a, b in spans])
    return f": faster than T^2 {listed} alone"


def find_excess(error: np.ndarray) -> int | None:
    """The step from which the sum is above epsilon T^2, the first step's error being epsilon."""
    steps = np.arange(1, len(error) + 1)
    above = np.flatnonzero(np.cumsum(error) > (1 + 1e-9) * error[0] * steps**2)
    return int(above[0]) + 1 if len(above) else None


def describe_bound(error: np.ndarray) -> str:
    excess = find_excess(error)
    if excess is None:
        return (
            "With the first step's error as epsilon, the sum stays within epsilon T^2, as the "
            "lecture says."
        )
    return (
        f"With the first step's error as epsilon, the sum is above epsilon T^2 from step "
        f"{excess} on. The bound supposes that each step adds at most epsilon and that errors "
        "are carried on without growing. At least one of the two fails here: the model errs more "
        "where its rollouts lead, or the task enlarges errors. This does not tell which."
    )


def draw(results: Results) -> str:
    error = np.asarray(results["error"], float)
    x = np.arange(1, len(error) + 1)
    curves = (
        ("error of a state", error, 0),
        ("sum along the rollout", np.cumsum(error), 1),
        ("epsilon T, the bound of a state's error", error[0] * x, "r0"),
        ("epsilon T^2, the bound of the sum", error[0] * x**2, "r1"),
    )
    lines = [
        Series(name, list(zip(x.tolist(), y.tolist(), strict=True)), style)
        for name, y, style in curves
    ]
    note = (
        f"{RUNG}, first seed: open loop along the actions of its own episodes, from "
        f"{results['starts']} states; epsilon is the error of the first step"
    )
    return plot_lines(
        "Error of the model by rollout length",
        lines,
        "steps T",
        log=True,
        log_x=True,
        note=note,
        y_name="error in standard deviations of the states",
    )


LESSON = Lesson(
    "error_growth",
    "Error against rollout length",
    "that an error of epsilon at each step moves the states that follow, so that a rollout of T "
    "steps is wrong by up to epsilon T^2 in total.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    state_only=True,
)
