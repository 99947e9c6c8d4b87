"""1.0 against 1.5: whole plans against a new plan at every step."""

from __future__ import annotations

from worldmodel.ladder.learning_curves import (
    compare_spent,
    match_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import describe_mean, describe_verdict, judge
from worldmodel.ladder.trainings import Study

OPEN_LOOP, MPC = "v10", "v15"


def list_labels(study: Study) -> list[str]:
    return [OPEN_LOOP, MPC]


def measure(material: Material) -> Results:
    curves = {name: read_curves(material.runs[name]) for name in (OPEN_LOOP, MPC)}
    return {"curves": curves, "references": material.measure_references(MPC)}


def describe(results: Results) -> str:
    curves = match_seeds(results["curves"])
    whole, anew = (curves[name]["final"] for name in (OPEN_LOOP, MPC))
    verdict = describe_verdict(judge(anew, whole), len(anew))
    return (
        f"Replanning ({MPC}) got {describe_mean(anew)} and whole plans ({OPEN_LOOP}) got "
        f"{describe_mean(whole)}: {verdict}.\n{describe_price(results)}How errors add up along a "
        "plan is not measured here but under error against rollout length."
    )


def describe_price(results: Results) -> str:
    spent = compare_spent(results["curves"])
    if spent is None:
        return ""
    ratio = spent[MPC] / max(1e-9, spent[OPEN_LOOP])
    verdict = "as the lecture says" if ratio > 1.05 else "which is not what the lecture says"
    return f"It took {ratio:.1f} times the processor time, {verdict}.\n"


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    note = "training episodes, mean of the seeds"
    return plot_curves(
        "Returns by environment steps", curves, "frames", note, levels
    ) + plot_finals("Returns of the closing evaluation", curves, "", levels)


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
