"""Returns by rung, against environment steps and against compute."""

from __future__ import annotations

from worldmodel.ladder.learning_curves import plot_curves, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import describe_mean, describe_order
from worldmodel.ladder.trainings import Study

ORDER = ("v05", "v10", "v15", "v2_ensemble")  # in which the lecture lets returns rise


def list_labels(study: Study) -> list[str]:
    return list(study.rungs)


def measure(material: Material) -> Results:
    rungs = [rung for rung in list_labels(material.study) if material.runs.get(rung)]
    return {rung: read_curves(material.runs[rung]) for rung in rungs}


def describe(results: Results) -> str:
    finals = {rung: curve["final"] for rung, curve in results.items()}
    best = max(finals, key=lambda rung: sum(finals[rung]) / len(finals[rung]))
    spent = {rung: sum(curve["spent"]) / len(curve["spent"]) for rung, curve in results.items()}
    slow = max(spent, key=lambda rung: spent[rung])
    planned = {rung: finals[rung] for rung in ORDER if rung in finals}
    order = f"Along the planning rungs the closing return {describe_order(planned)}; "
    return (
        f"{order if len(planned) > 1 else ''}the highest return of all is that of {best} with "
        f"{describe_mean(finals[best])}, and the most minutes went to {slow} ({spent[slow]:.1f})."
    )


def draw(results: Results) -> str:
    training = "training episodes, mean of the seeds"
    return (
        plot_curves("Returns by environment steps", results, "frames", training)
        + plot_curves("Returns by minutes of compute", results, "minutes", training)
        + plot_finals("Returns of the closing evaluation", results, "line: range of the seeds")
    )


LESSON = Lesson(
    "returns",
    "The rungs",
    "Each rung mends what the one below gets wrong, so returns rise from 0.5 to 1.5 and on, while "
    "planning at every step costs more compute than acting by a learnt policy.",
    list_labels,
    measure,
    describe,
    draw,
    needs_all=False,
)
