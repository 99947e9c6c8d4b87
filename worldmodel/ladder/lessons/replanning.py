"""1.0 against 1.5: whole plans against a new plan at every step."""

from __future__ import annotations

from worldmodel.ladder.learning_curves import plot_curves, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import describe_mean, describe_verdict, judge
from worldmodel.ladder.trainings import Study

OPEN_LOOP, MPC = "v10", "v15"


def list_labels(study: Study) -> list[str]:
    return [OPEN_LOOP, MPC]


def measure(material: Material) -> Results:
    return {name: read_curves(material.runs[name]) for name in (OPEN_LOOP, MPC)}


def describe(results: Results) -> str:
    whole, anew = (results[name]["final"] for name in (OPEN_LOOP, MPC))
    verdict = describe_verdict(judge(anew, whole), len(anew))
    ratio = sum(results[MPC]["spent"]) / max(1e-9, sum(results[OPEN_LOOP]["spent"]))
    return (
        f"Replanning got {describe_mean(anew)} and whole plans got {describe_mean(whole)}: "
        f"{verdict}; it took {ratio:.1f} times the minutes."
    )


def draw(results: Results) -> str:
    return plot_curves("Returns by environment steps", results, "frames") + plot_finals(
        "Returns of the closing evaluation", results, "line: range of the seeds"
    )


LESSON = Lesson(
    "replanning",
    "1.0 against 1.5: replanning",
    "Errors of the model add up along a plan; planning anew at every step corrects them with what "
    "was observed, at the price of more planning.",
    list_labels,
    measure,
    describe,
    draw,
)
