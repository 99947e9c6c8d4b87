"""Returns by rung, against environment steps and against compute."""

from __future__ import annotations

import time

import numpy as np

from worldmodel.evaluation.report.html import render_table
from worldmodel.ladder.learning_curves import (
    compare_spent,
    keep_seeds,
    list_shared_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.references import EXPERT, SPINNING, SPINS
from worldmodel.ladder.statements import describe_mean, describe_steps, join_words, judge
from worldmodel.ladder.trainings import Study

ORDER = ("v05", "v10", "v15", "v2_ensemble")  # in which the lecture lets returns rise
PLANNERS = ("v15", "v15_mppi", "v2_ensemble")  # that plan at every step
POLICIES = ("v20", "v25", "v30")
RANDOM_ONLY = "v05"
ACTIONS = 30  # that are timed, after as many that are not


def list_labels(study: Study) -> list[str]:
    return list(study.rungs)


def measure(material: Material) -> Results:
    rungs = [rung for rung in list_labels(material.study) if material.runs.get(rung)]
    return {
        "curves": {rung: read_curves(material.runs[rung]) for rung in rungs},
        "action_ms": {rung: measure_action_time(material, rung) for rung in rungs},
        "references": material.measure_references(rungs[0]),
    }


def measure_action_time(material: Material, label: str) -> float:
    """Processor milliseconds of one action; the time of a whole plan is spread over its steps."""
    run = material.open(label)
    env = material.environments.make_factory(run.config.env, run.config.distract, True)()
    observation, _ = env.reset(seed=0)
    env.close()
    carry, began = None, 0.0
    for step in range(2 * ACTIONS):
        if step == ACTIONS:
            began = time.process_time()
        _, carry = run.act([observation], carry)
    return (time.process_time() - began) / ACTIONS * 1000


def describe(results: Results) -> str:
    parts = (
        describe_order,
        describe_policies,
        describe_best,
        describe_spinning,
        describe_single_seeds,
        describe_cost,
    )
    return "\n".join(filter(None, (part(results) for part in parts)))


def compare_finals(curves: Results, a: str, b: str) -> int:
    """1 where a's closing return is clearly above b's, over the seeds that both have."""
    seeds = list_shared_seeds(curves[a], curves[b])
    a_final, b_final = (keep_seeds(curves[label], seeds)["final"] for label in (a, b))
    return judge(a_final, b_final) if seeds else 0


def describe_order(results: Results) -> str:
    curves = results["curves"]
    planned = [rung for rung in ORDER if rung in curves]
    pairs = list(zip(planned, planned[1:], strict=False))
    if not pairs:
        return ""
    verdicts = {f"{a} to {b}": compare_finals(curves, b, a) for a, b in pairs}
    up_to = [b for a, b in pairs if b in ORDER[:3]]
    agrees = all(verdicts[f"{a} to {b}"] == 1 for a, b in pairs if b in up_to)
    said = f"Along the planning rungs the closing return {describe_steps(verdicts)}."
    if not up_to:
        return said
    verdict = "as the lecture says" if agrees else "not what the lecture says"
    return f"{said} Up to rung 1.5 that is {verdict}."


def describe_policies(results: Results) -> str:
    """The lecture lets returns rise beyond 1.5 too."""
    curves = results["curves"]
    if "v15" not in curves:
        return ""
    known = [rung for rung in POLICIES if rung in curves]
    verdicts = {rung: compare_finals(curves, rung, "v15") for rung in known}
    words = []
    for verdict, what in (
        (1, "ended clearly above v15"),
        (0, "ended within the spread of the seeds of v15"),
        (-1, "ended clearly below v15"),
    ):
        own = [
            f"{rung} ({np.mean(curves[rung]['final']):.1f})"
            for rung in known
            if verdicts[rung] == verdict
        ]
        if own:
            words.append(f"{join_words(own)} {what} ({np.mean(curves['v15']['final']):.1f})")
    if not words:
        return ""
    lower = [r for r in known if np.mean(curves[r]["final"]) < np.mean(curves["v15"]["final"])]
    if all(verdict == 1 for verdict in verdicts.values()):
        end = ": returns rise on, as the lecture says"
    else:
        count = "all" if len(lower) == len(known) else f"{len(lower)} of {len(known)}"
        end = f"; {count} of these means {'is' if count[0] == '1' else 'are'} lower"
        end = end if lower else ""
        end += ": beyond 1.5 returns do not rise as the lecture says"
    return f"Of the policies, {'; '.join(words)}{end}."


def describe_best(results: Results) -> str:
    curves = results["curves"]
    best = max(curves, key=lambda rung: np.mean(curves[rung]["final"]))
    alike = [r for r in curves if r != best and compare_finals(curves, best, r) == 0]
    said = f"The highest mean is that of {best}, {describe_mean(curves[best]['final'])}"
    if not alike:
        return f"{said}{', clearly above the rest' if len(curves) > 1 else ''}."
    others = join_words([f"{rung} ({np.mean(curves[rung]['final']):.1f})" for rung in alike])
    return f"{said}; there is no clear difference from {others}."


def describe_spinning(results: Results) -> str:
    """Which rungs do no better than a pendulum that spins."""
    levels, curves = results["references"], results["curves"]
    if SPINNING not in levels:
        return ""
    most = SPINS * levels[SPINNING]
    low = [rung for rung in curves if np.mean(curves[rung]["final"]) <= most]
    expert = f"the expert gets {levels[EXPERT]:.1f}"
    if not low:
        return f"All get beyond a spinning pendulum ({levels[SPINNING]:.1f}); {expert}."
    verb = "does" if len(low) == 1 else "do"
    return (
        f"{join_words(low)} {verb} not get beyond a spinning pendulum ({levels[SPINNING]:.1f}); "
        f"{expert}."
    )


def describe_single_seeds(results: Results) -> str:
    """Which rungs say little, having one seed."""
    single = [rung for rung, curve in results["curves"].items() if len(curve["seeds"]) == 1]
    if not single:
        return ""
    verb = "has" if len(single) == 1 else "have"
    return f"{join_words(single)} {verb} one seed, so that differences from others may be chance."


def describe_cost(results: Results) -> str:
    """The price of an action, which is the lecture's claim, and that of a whole training."""
    action = results["action_ms"]
    planners, policies = ([r for r in own if r in action] for own in (PLANNERS, POLICIES))
    if not planners or not policies:
        return ""
    plan, act = (
        [action[rung] for rung in planners],
        [action[rung] for rung in policies],
    )
    dearer = min(plan) > max(act)
    verdict = "as the lecture says" if dearer else "which is not what the lecture says"
    said = (
        f"An action takes {_list_range(plan, 'ms')} of processor time where it is planned "
        f"({join_words(planners)}) and {_list_range(act, 'ms')} where a policy gives it "
        f"({join_words(policies)}), {verdict}."
    )
    spent = compare_spent({r: results["curves"][r] for r in [*planners, *policies]})
    if spent is None:
        return said
    plan, act = ([spent[rung] for rung in own] for own in (planners, policies))
    if min(act) > max(plan):
        turn = ": learning a policy costs more than its actions save"
    elif max(act) < min(plan):
        turn = ", so that a policy is cheaper on the whole too"
    else:
        turn = ", so that neither is cheaper on the whole"
    return (
        f"{said} Whole trainings took {_list_range(plan, 'processor minutes')} with plans and "
        f"{_list_range(act, 'processor minutes')} with policies{turn}."
    )


def _list_range(numbers: list[float], unit: str) -> str:
    low, high = (f"{f(numbers):.2g}" for f in (min, max))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    note = "training episodes with their exploration noise, mean of the seeds"
    if RANDOM_ONLY in curves:
        note += f"; {RANDOM_ONLY} collects random actions alone"
    spent = compare_spent(curves)
    seeds = list_shared_seeds(*curves.values())
    rows = [
        (
            label,
            str(len(curve["seeds"])),
            describe_mean(curve["final"]),
            f"{results['action_ms'][label]:.2g}",
            f"{spent[label]:.2f}" if spent else "unknown",
        )
        for label, curve in curves.items()
    ]
    head = ("rung", "seeds", "closing return", "ms per action", "processor minutes")
    listed = join_words([str(seed) for seed in seeds]) if spent else "none"
    caption = f"Processor minutes are means over the seeds that all rungs have: {listed}"
    return (
        plot_curves("Returns by environment steps", curves, "frames", note, levels)
        + plot_curves("Returns by processor time", curves, "minutes", note, levels)
        + plot_finals("Returns of the closing evaluation", curves, "without noise", levels)
        + render_table(caption, head, rows)
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
