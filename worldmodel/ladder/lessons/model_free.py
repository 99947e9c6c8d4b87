"""Model-based against model-free: the Dyna agent against the same agent without rollouts."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.learning_curves import (
    average_episodes,
    count_steps,
    match_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.references import EXPERT
from worldmodel.ladder.statements import describe_count, describe_mean, join_words, judge
from worldmodel.ladder.trainings import FREE_FACTOR, MODEL_FREE, Study

PLANS, DYNA = "v15", "v30"
SHARE = 0.8  # of the expert's return, for the steps that it takes to get there
CEILING = 0.97  # of the expert's return, above which an end says nothing of who would end higher


def list_labels(study: Study) -> list[str]:
    return [PLANS, DYNA, MODEL_FREE]


def measure(material: Material) -> Results:
    curves = {name: read_curves(material.runs[name]) for name in list_labels(material.study)}
    return {"curves": curves, "references": material.measure_references(PLANS)}


def describe(results: Results) -> str:
    curves = match_seeds(results["curves"])
    if not curves[MODEL_FREE]["final"]:
        return "The trainings have no seed in common."
    levels = results["references"]
    return f"{describe_steps(curves, levels)}\n{describe_end(curves, levels)}"


def describe_steps(curves: Results, levels: Results) -> str:
    """The first half of the lecture's claim: steps to a level that is a share of the expert's."""
    highest = max(float(average_episodes(c)[:, 1].max(initial=0.0)) for c in curves.values())
    level = SHARE * levels.get(EXPERT, highest)
    whose = "the expert's return" if EXPERT in levels else "the highest return"
    steps = {name: count_steps(curve, level) for name, curve in curves.items()}
    listed = join_words([f"{name} {_say_steps(count)}" for name, count in steps.items()])
    free = steps[MODEL_FREE] or np.inf
    words, fewer, open_ = [], [], []
    for name in (PLANS, DYNA):
        based = steps[name] or np.inf
        last = float(average_episodes(curves[name])[:, 0].max(initial=0.0))
        if np.isinf(based) and np.isinf(free):
            words.append(f"neither {name} nor {MODEL_FREE} gets there")
            open_.append(name)
        elif np.isinf(based) and free > last:
            words.append(f"{last:,.0f} steps are too few to compare {name}")
            open_.append(name)
        elif based == free:
            words.append(f"{name} needs as many steps as {MODEL_FREE}")
        elif based < free:
            ratio = f"{free / based:.1f} times as many steps as" if np.isfinite(free) else ""
            words.append(f"{MODEL_FREE} needs {ratio or 'more steps than'} {name}")
            fewer.append(name)
        else:
            words.append(f"{name} needs more steps than {MODEL_FREE}")
    known = [name for name in (PLANS, DYNA) if name not in open_]
    if not known:
        verdict = "so that nothing is decided"
    elif fewer == known:
        verdict = "as the lecture says" + f" of {known[0]}" * (len(known) == 1)
    elif fewer:
        verdict = f"as the lecture says of {fewer[0]} alone"
    else:
        verdict = "which is not what the lecture says"
    return (
        f"Environment steps until the mean return is first at {level:.1f} ({SHARE:.0%} of "
        f"{whose}): {listed}. {'; '.join(words)}, {verdict}."
    )


def _say_steps(count: float | None) -> str:
    return "never" if count is None else f"{count:,.0f}"


def describe_end(curves: Results, levels: Results) -> str:
    """The second half: a higher end without a model."""
    finals = {name: curves[name]["final"] for name in (PLANS, DYNA, MODEL_FREE)}
    free = finals[MODEL_FREE]
    best = max((PLANS, DYNA), key=lambda name: np.mean(finals[name]))
    over = describe_count(len(free), "seed")
    ends = join_words([f"{name} at {describe_mean(final)}" for name, final in finals.items()])
    said = f"With {FREE_FACTOR} times the steps for {MODEL_FREE}, the ends are {ends} ({over})"
    least = min(np.mean(free), np.mean(finals[best]))
    if EXPERT in levels and least >= CEILING * levels[EXPERT]:
        return (
            f"{said}: {best} and {MODEL_FREE} are both at the expert's return "
            f"({levels[EXPERT]:.1f}), so that this task cannot show who would end higher."
        )
    verdict = {
        1: f"{MODEL_FREE} ends clearly above {best}, as the lecture says",
        0: f"no clear difference between {MODEL_FREE} and {best}, so this does not show a higher "
        "end without a model",
        -1: f"{MODEL_FREE} ends clearly below {best}, the opposite of what the lecture says",
    }[judge(free, finals[best])]
    return f"{said}: {verdict}."


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    note = "training episodes, mean of the seeds"
    return plot_curves(
        "Returns by environment steps", curves, "frames", note, levels
    ) + plot_finals(
        "Returns of the closing evaluation",
        curves,
        f"{MODEL_FREE} had {FREE_FACTOR} times the steps",
        levels,
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
