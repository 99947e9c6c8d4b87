"""How long imagined rollouts should be in the Dyna agent."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.learning_curves import match_seeds, plot_curves, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import describe_count, describe_mean, join_words, judge
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


def describe(results: Results) -> str:
    """Each length is compared with the shortest over the seeds that both have."""
    curves = results["curves"]
    short, *longer = sorted(curves, key=int)
    if not longer:
        return f"Only rollouts of {describe_count(int(short), 'step')} are trained."
    words, verdicts = [], []
    for length in longer:
        pair = match_seeds({short: curves[short], length: curves[length]})
        ours, theirs = pair[short]["final"], pair[length]["final"]
        if not ours:
            continue
        verdicts.append(judge(ours, theirs))
        what = {1: "clearly worse", 0: "no clear difference", -1: "clearly better"}[verdicts[-1]]
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
    "Short rollouts from real states keep the model's error small; long ones compound it, and the "
    "policy learns from states that do not exist.",
    list_labels,
    measure,
    describe,
    draw,
    needs_all=False,
)
