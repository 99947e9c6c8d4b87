"""How long imagined rollouts should be in the Dyna agent."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.learning_curves import match_seeds, plot_curves, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import (
    Claim,
    describe_count,
    describe_mean,
    join_words,
    judge,
    name_verdict,
    state_absence,
    state_finding,
)
from worldmodel.ladder.trainings import Study, label_rollouts


def list_labels(study: Study) -> list[str]:
    return [label_rollouts(length) for length in study.rollout_lengths]


def measure(material: Material) -> Results:
    curves = {
        str(length): read_curves(material.runs[label])
        for length in material.study.rollout_lengths
        if material.runs.get(label := label_rollouts(length))
    }
    label = label_rollouts(int(next(iter(curves))))
    return {"curves": curves, "references": material.measure_references(label)}


def compare_lengths(curves: Results) -> dict[str, tuple[int, list[float], list[float]]]:
    """Each longer length against the shortest over the seeds that both have: 1 where it is clearly
    worse, 0 or -1, and the returns of the shortest and of the longer.
    """
    short, *longer = sorted(curves, key=int)
    found = {}
    for length in longer:
        pair = match_seeds({short: curves[short], length: curves[length]})
        ours, theirs = pair[short]["final"], pair[length]["final"]
        if ours:
            found[length] = judge(ours, theirs), ours, theirs
    return found


def summarize(results: Results) -> str:
    """The lengths are grouped by whether they are worse than the shortest."""
    curves = results["curves"]
    short, *longer = sorted(curves, key=int)
    steps = describe_count(int(short), "step")
    if not longer:
        return state_absence(f"only rollouts of {steps} are trained")
    compared = compare_lengths(curves)
    if not compared:
        return state_absence("no length has a seed in common with the shortest")
    claims = []
    for sign, what in ((1, "clearly less"), (0, "not clearly less"), (-1, "clearly more")):
        own = {length: found for length, found in compared.items() if found[0] == sign}
        if own:
            ours, theirs = (
                join_words([f"{np.mean(found[i]):.1f}" for found in own.values()]) for i in (1, 2)
            )
            said = f"{join_words(list(own))} returned {what} ({theirs} against {ours})"
            claims.append(Claim(name_verdict(sign), said))
    counts = sorted({len(ours) for _, ours, _ in compared.values()})
    seeds = describe_count(counts[-1], "seed")
    seeds = seeds if len(counts) == 1 else f"{counts[0]} to {seeds}"
    return state_finding(claims, f"compared with {steps}, rollouts of ", f", over {seeds}")


def describe(results: Results) -> str:
    curves = results["curves"]
    short, *longer = sorted(curves, key=int)
    if not longer:
        return f"Only rollouts of {describe_count(int(short), 'step')} are trained."
    words, verdicts = [], []
    for length, (sign, ours, theirs) in compare_lengths(curves).items():
        verdicts.append(sign)
        what = {1: "clearly worse", 0: "no clear difference", -1: "clearly better"}[sign]
        words.append(
            f"{length} steps got {describe_mean(theirs)} and {short} got {describe_mean(ours)} "
            f"over {describe_count(len(ours), 'seed')}: {what}"
        )
    if not words:
        return "No length has a seed in common with the shortest."
    if all(v == 1 for v in verdicts):
        verdict = "Every longer length does worse, as the lecture says."
    elif -1 in verdicts:
        verdict = "Some longer length does better, the opposite of what the lecture says."
    elif 1 in verdicts:
        verdict = "Only some longer lengths do worse, which is half of what the lecture says."
    else:
        verdict = "That does not show what the lecture says."
    return (
        f"Rollouts are compared with the shortest over the seeds that both have: "
        f"{'; '.join(words)}.\n{verdict}{describe_shape(curves)}"
    )


def describe_shape(curves: Results) -> str:
    """Whether returns fall steadily with the length, over the seeds that all lengths have."""
    shared = match_seeds(curves)
    lengths = sorted(shared, key=int)
    if len(lengths) < 3 or not shared[lengths[0]]["final"]:
        return ""
    means = [float(np.mean(shared[length]["final"])) for length in lengths]
    order = sorted(lengths, key=lambda length: -means[lengths.index(length)])
    over = describe_count(len(shared[lengths[0]]["final"]), "seed")
    steady = order == lengths
    return (
        f"\nFrom best to worst the lengths are {join_words(order)} over {over} that all have: "
        f"{'a steady fall' if steady else 'not a steady fall'} with length."
    )


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    named = {label_rollouts(int(length)): curve for length, curve in curves.items()}
    names = {label_rollouts(int(x)): describe_count(int(x), "step") for x in curves}
    return plot_curves(
        "Returns by environment steps",
        named,
        "frames",
        "training episodes, mean of the seeds",
        levels,
        names,
    ) + plot_finals(
        "Returns of the closing evaluation, by length of rollouts", named, "", levels, names
    )


LESSON = Lesson(
    "rollout_length",
    "Short branched rollouts against long ones",
    "that a policy learns worse from long rollouts, which compound the model's error and lead to "
    "states that do not exist, than from short ones that start from real states.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    needs_all=False,
)
