"""How long imagined rollouts should be in the Dyna agent."""

from __future__ import annotations

from worldmodel.ladder.learning_curves import plot_curves, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import describe_mean, describe_verdict, judge
from worldmodel.ladder.trainings import Study, label_rollouts


def list_labels(study: Study) -> list[str]:
    return [label_rollouts(length) for length in study.rollout_lengths]


def measure(material: Material) -> Results:
    return {
        str(length): read_curves(material.runs[label_rollouts(length)])
        for length in material.study.rollout_lengths
    }


def describe(results: Results) -> str:
    finals = {length: curve["final"] for length, curve in results.items()}
    best = max(finals, key=lambda length: sum(finals[length]) / len(finals[length]))
    short, long = min(finals, key=int), max(finals, key=int)
    verdict = describe_verdict(judge(finals[short], finals[long]), len(finals[long]))
    return (
        f"Length {best} got the most, {describe_mean(finals[best])}; length {short} got "
        f"{describe_mean(finals[short])} and {long} got {describe_mean(finals[long])}: {verdict}."
    )


def draw(results: Results) -> str:
    named = {f"{length} steps": curve for length, curve in results.items()}
    return plot_curves("Returns by environment steps", named, "frames") + plot_finals(
        "Returns of the closing evaluation, by length of rollouts", named
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
)
