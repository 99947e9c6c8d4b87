"""Model-based against model-free: the Dyna agent against the same agent without rollouts."""

from __future__ import annotations

from worldmodel.ladder.learning_curves import average_curve, plot_curves, plot_finals, read_curves
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import describe_mean, describe_verdict, judge
from worldmodel.ladder.trainings import FREE_FACTOR, MODEL_FREE, Study

SHARE = 0.8  # of the best return, for the steps that it takes to get there


def list_labels(study: Study) -> list[str]:
    return ["v15", "v30", MODEL_FREE]


def measure(material: Material) -> Results:
    return {name: read_curves(material.runs[name]) for name in list_labels(material.study)}


def describe(results: Results) -> str:
    level = SHARE * max(y for curve in results.values() for _, y in average_curve(curve))
    reached = "; ".join(f"{name} {count_steps(c, level)}" for name, c in results.items())
    free = results[MODEL_FREE]["final"]
    based = max((results[name]["final"] for name in results if name != MODEL_FREE), key=sum)
    verdict = describe_verdict(judge(free, based), len(free))
    return (
        f"Steps to a return of {level:.3g}: {reached}. With the most steps the model-free agent "
        f"ended at {describe_mean(free)}, the better model-based one at {describe_mean(based)}: "
        f"a higher end without a model is {verdict}."
    )


def count_steps(curve: Results, level: float) -> str:
    """The environment steps after which the mean return is at a level."""
    return next((f"{x:,.0f}" for x, y in average_curve(curve) if y >= level), "never")


def draw(results: Results) -> str:
    return plot_curves("Returns by environment steps", results, "frames") + plot_finals(
        "Returns of the closing evaluation",
        results,
        f"{MODEL_FREE} had {FREE_FACTOR} times the steps",
    )


LESSON = Lesson(
    "model_free",
    "Model-based against model-free",
    "A model learns a task from fewer steps, and a model-free agent ends higher once it has had "
    "many more, as no model error limits it.",
    list_labels,
    measure,
    describe,
    draw,
)
