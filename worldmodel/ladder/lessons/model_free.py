"""Model-based against model-free: the Dyna agent against the same agent without rollouts."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.learning_curves import (
    average_episodes,
    count_steps,
    describe_prefill,
    match_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.references import EXPERT
from worldmodel.ladder.statements import (
    APART,
    Claim,
    Verdict,
    combine_verdicts,
    describe_count,
    describe_mean,
    join_words,
    judge,
    name_verdict,
    state_absence,
    state_finding,
)
from worldmodel.ladder.trainings import FREE_FACTOR, MODEL_FREE, Study

PLANS, DYNA = "v15", "v30"
ALGORITHM = "SAC"  # of the policy of both agents that learn one
SHARE = 0.8  # of the expert's return, for the steps that it takes to get there
CEILING = 0.97  # of the expert's return, above which an end says nothing of who would end higher


def list_labels(study: Study) -> list[str]:
    return [PLANS, DYNA, MODEL_FREE]


def measure(material: Material) -> Results:
    curves = {name: read_curves(material.runs[name]) for name in list_labels(material.study)}
    return {"curves": curves, "references": material.measure_references(PLANS)}


def summarize(results: Results) -> str:
    curves, levels = match_seeds(results["curves"]), results["references"]
    if not curves[MODEL_FREE]["final"]:
        return state_absence(APART)
    seeds = describe_count(len(curves[MODEL_FREE]["final"]), "seed")
    claims = [claim_steps(curves, levels), claim_end(curves, levels)]
    return state_finding(claims, after=f", over {seeds}")


def claim_steps(curves: Results, levels: Results) -> Claim:
    """A model learns a task from fewer steps."""
    level, steps, compared = compare_steps(curves, levels)
    verdict = combine_verdicts(
        Verdict.UNCLEAR if sign is None else name_verdict(sign) for sign in compared.values()
    )
    if not any(steps.values()):
        return Claim(verdict, f"no agent reaches a return of {level:.1f}")
    needed = {name: _say_steps(count, curves[name]) for name, count in steps.items()}
    return Claim(
        verdict,
        f"the first return of {level:.1f} takes planning ({PLANS}) {needed[PLANS]} steps, Dyna "
        f"({DYNA}) {needed[DYNA]} and {ALGORITHM} without a model {needed[MODEL_FREE]}",
    )


def claim_end(curves: Results, levels: Results) -> Claim:
    """A model-free agent ends higher after many more steps; too few cannot refute it."""
    best, is_open = compare_ends(curves, levels)
    if is_open:
        said = f"ends near the expert's {levels[EXPERT]:.1f} show no winner"
        return Claim(Verdict.UNCLEAR, said)
    free, based = (curves[name]["final"] for name in (MODEL_FREE, best))
    ends = f"{np.mean(free):.1f} against {np.mean(based):.1f}"
    if judge(free, based) == 1:
        return Claim(Verdict.AGREES, f"the model-free end is clearly higher ({ends})")
    said = f"{FREE_FACTOR} times the steps leave the model-free end open ({ends})"
    return Claim(Verdict.UNCLEAR, said)


def describe(results: Results) -> str:
    curves = match_seeds(results["curves"])
    if not curves[MODEL_FREE]["final"]:
        return "The trainings have no seed in common."
    levels = results["references"]
    return f"{describe_steps(curves, levels)}\n{describe_end(curves, levels)}"


def compare_steps(
    curves: Results, levels: Results
) -> tuple[float, dict[str, float | None], dict[str, int | None]]:
    """A level that is a share of the expert's return, the steps of each agent to it, and whether
    agents with a model need fewer than the one without: 1, as many: 0, or more: -1; None where
    too few steps were taken to tell.
    """
    highest = max(float(average_episodes(c)[:, 1].max(initial=0.0)) for c in curves.values())
    level = SHARE * levels.get(EXPERT, highest)
    steps = {name: count_steps(curve, level) for name, curve in curves.items()}
    free, compared = steps[MODEL_FREE] or np.inf, {}
    for name in (PLANS, DYNA):
        based = steps[name] or np.inf
        is_open = np.isinf(based) and (np.isinf(free) or free > find_last_step(curves[name]))
        compared[name] = None if is_open else int(np.sign(free - based)) if based != free else 0
    return level, steps, compared


def find_last_step(curve: Results) -> float:
    return float(average_episodes(curve)[:, 0].max(initial=0.0))


def describe_steps(curves: Results, levels: Results) -> str:
    """The first half of the lecture's claim."""
    level, steps, compared = compare_steps(curves, levels)
    whose = "the expert's return" if EXPERT in levels else "the highest return"
    needed = {name: _say_steps(count, curves[name]) for name, count in steps.items()}
    listed = join_words([f"{name} {count}" for name, count in needed.items()])
    words, unknown, free = [], [], steps[MODEL_FREE]
    for name, sign in compared.items():
        based = steps[name]
        if sign is None and free is None:
            unknown.append(f"Neither {name} nor {MODEL_FREE} gets there.")
        elif sign is None:
            last = find_last_step(curves[name])
            unknown.append(f"{name} is not compared, as its {last:,.0f} steps are too few.")
        elif sign == 0:
            words.append(f"{name} needs as many steps as {MODEL_FREE}")
        elif sign == 1 and based:
            ratio = f"{free / based:.1f} times as many steps as" if free else "more steps than"
            words.append(f"{MODEL_FREE} needs {ratio} {name}")
        else:
            words.append(f"{name} needs more steps than {MODEL_FREE}")
    known = [name for name, sign in compared.items() if sign is not None]
    fewer = [name for name, sign in compared.items() if sign == 1]
    if fewer == known:
        verdict = "as the lecture says"
    elif fewer:
        verdict = f"as the lecture says of {fewer[0]} alone"
    else:
        verdict = "which is not what the lecture says"
    said = f"{'; '.join(words)}, {verdict}." if known else "So nothing is decided."
    return (
        f"Environment steps until the mean return is first at {level:.1f} ({SHARE:.0%} of "
        f"{whose}): {listed}. It may fall again later. {' '.join([*unknown, said])}"
    )


def _say_steps(count: float | None, curve: Results) -> str:
    return f"over {find_last_step(curve):,.0f}" if count is None else f"{count:,.0f}"


def compare_ends(curves: Results, levels: Results) -> tuple[str, bool]:
    """Which agent with a model ends highest, and whether it and the one without are both too near
    the expert's return to be compared.
    """
    means = {name: np.mean(curves[name]["final"]) for name in (PLANS, DYNA, MODEL_FREE)}
    best = max((PLANS, DYNA), key=lambda name: means[name])
    least = min(means[MODEL_FREE], means[best])
    return best, EXPERT in levels and least >= CEILING * levels[EXPERT]


def describe_end(curves: Results, levels: Results) -> str:
    """The second half: a higher end without a model."""
    finals = {name: curves[name]["final"] for name in (PLANS, DYNA, MODEL_FREE)}
    free, (best, is_open) = finals[MODEL_FREE], compare_ends(curves, levels)
    over = describe_count(len(free), "seed")
    ends = join_words([f"{name} at {describe_mean(final)}" for name, final in finals.items()])
    said = f"With {FREE_FACTOR} times the steps for {MODEL_FREE}, the ends are {ends} ({over})"
    if is_open:
        return (
            f"{said}: {best} and {MODEL_FREE} are both at the expert's return "
            f"({levels[EXPERT]:.1f}), so that this task cannot show who would end higher."
        )
    verdict = {
        1: f"{MODEL_FREE} ends clearly above {best}, as the lecture says",
        0: f"no clear difference between {MODEL_FREE} and {best}",
        -1: f"{MODEL_FREE} ends clearly below {best}",
    }[sign := judge(free, finals[best])]
    if sign != 1:
        verdict += f". The lecture speaks of many more steps than {FREE_FACTOR} times as many"
    return f"{said}: {verdict}."


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    about = f"{MODEL_FREE}: {ALGORITHM}, the agent of {DYNA}, on real steps alone"
    notes = ("training episodes, mean of the seeds", describe_prefill(curves), about)
    note = "; ".join(filter(None, notes))
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
    "that a model learns a task from fewer steps, and that a model-free agent ends higher once it "
    "has had many more, as no model error limits it.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
)
