"""Returns by rung, against environment steps and against compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from worldmodel.evaluation.report.html import render_table
from worldmodel.ladder.learning_curves import (
    compare_spent,
    describe_prefill,
    keep_seeds,
    list_shared_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.references import EXPERT, SPINNING, SPINS
from worldmodel.ladder.statements import (
    Claim,
    Verdict,
    combine_verdicts,
    describe_mean,
    describe_steps,
    join_words,
    judge,
    name_verdict,
    state_finding,
)
from worldmodel.ladder.trainings import POLICIES, Study

ORDER = ("v05", "v10", "v15", "v2_ensemble")  # in which the lecture lets returns rise
PLANNERS = ("v15", "v15_mppi", "v2_ensemble")  # that plan at every step
WHOLE = ("v05", "v10")  # that execute whole plans
HIGHER = ("v2_ensemble", *POLICIES)  # beyond 1.5, from the same observations
RANDOM_ONLY = "v05"


def list_labels(study: Study) -> list[str]:
    return list(study.rungs)


def measure(material: Material) -> Results:
    rungs = [rung for rung in list_labels(material.study) if material.runs.get(rung)]
    return {
        "curves": {rung: read_curves(material.runs[rung]) for rung in rungs},
        "action_ms": {rung: material.measure_action_time(rung) for rung in rungs},
        "references": material.measure_references(rungs[0]),
    }


def summarize(results: Results) -> str:
    curves = results["curves"]
    claims = [claim_order(curves), claim_higher(curves), claim_price(results["action_ms"])]
    compared = [curves[rung]["seeds"] for rung in (*ORDER[:3], *HIGHER) if rung in curves]
    is_single = any(len(seeds) == 1 for seeds in compared)
    return state_finding(claims, after=", over 1 seed" if is_single else "")


def claim_order(curves: Results) -> Claim:
    """Returns rise with each rung up to v15."""
    rungs = [rung for rung in ORDER[:3] if rung in curves]
    pairs = [(a, b) for a, b in zip(rungs, rungs[1:], strict=False) if _share_seeds(curves, a, b)]
    if not pairs:
        return Claim(Verdict.UNMEASURED, "no two rungs up to v15 can be compared")
    verdict = combine_verdicts(name_verdict(compare_finals(curves, b, a)) for a, b in pairs)
    first, last = pairs[0][0], pairs[-1][1]
    compared = (first, *(b for _, b in pairs))
    means = {rung: f"{np.mean(curves[rung]['final']):.1f}" for rung in compared}
    if verdict is Verdict.AGREES:
        return Claim(
            verdict, f"returns rise from {means[first]} ({first}) to {means[last]} ({last})"
        )
    how = {
        Verdict.PARTLY: "do not rise at each step",
        Verdict.UNCLEAR: "do not clearly rise",
        Verdict.DISAGREES: "do not rise",
    }[verdict]
    listed = ", ".join(f"{rung} {mean}" for rung, mean in means.items())
    return Claim(verdict, f"up to {last} returns {how} ({listed})")


def claim_higher(curves: Results) -> Claim:
    """Returns rise beyond v15."""
    known = [r for r in HIGHER if "v15" in curves and _share_seeds(curves, r, "v15")]
    if not known:
        return Claim(Verdict.UNMEASURED, "no rung beyond v15 can be compared with it")
    verdicts = {rung: name_verdict(compare_finals(curves, rung, "v15")) for rung in known}
    verdict = combine_verdicts(verdicts.values())
    wanted = {Verdict.PARTLY: Verdict.AGREES}.get(verdict, verdict)
    named = [rung for rung in known if verdicts[rung] is wanted or verdict is Verdict.UNCLEAR]
    means = [np.mean(curves[rung]["final"]) for rung in named]
    low, high = (f"{f(means):.1f}" for f in (min, max))
    ends = join_words(known) if len(known) < 3 else f"{known[0]} to {known[-1]}"
    subject = {
        Verdict.PARTLY: f"of {ends} only {join_words(named)}",
        Verdict.DISAGREES: join_words(named),
    }.get(verdict, ends)
    is_one = len(named) == 1
    verb = {
        Verdict.UNCLEAR: "does not clearly beat" if is_one else "do not clearly beat",
        Verdict.DISAGREES: "clearly falls below" if is_one else "clearly fall below",
    }.get(verdict, "clearly beats" if is_one else "clearly beat")
    listed = low if low == high else f"{low} to {high}"
    return Claim(verdict, f"{subject} {verb} v15 ({listed})")


def _share_seeds(curves: Results, a: str, b: str) -> bool:
    return a in curves and b in curves and bool(list_shared_seeds(curves[a], curves[b]))


def claim_price(action_ms: Results) -> Claim:
    """An action that is planned anew costs more than one that a policy gives."""
    plan, act = ([action_ms[r] for r in own if r in action_ms] for own in (PLANNERS, POLICIES))
    if not plan or not act:
        return Claim(Verdict.UNMEASURED, "no replanned action can be compared with a policy's")
    verdict = _compare_prices(plan, act)
    if verdict is Verdict.AGREES:
        ratio = math.floor(10 * min(plan) / max(act)) / 10  # so that "at least" holds
        return Claim(verdict, f"replanned actions take at least {ratio:.1f} times a policy's time")
    planned, given = (_list_range(own, "ms") for own in (plan, act))
    return Claim(verdict, f"replanned actions take {planned}, a policy's {given}")


def _compare_prices(plan: Sequence[float], act: Sequence[float]) -> Verdict:
    if min(plan) > max(act):
        return Verdict.AGREES
    return Verdict.DISAGREES if max(plan) < min(act) else Verdict.UNCLEAR


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
    return f"{said} Up to {up_to[-1]} that is {verdict}."


def describe_policies(results: Results) -> str:
    """The lecture lets returns rise beyond v15 too."""
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
        end += ": beyond v15 returns do not rise as the lecture says"
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
    dearer = _compare_prices(plan, act) is Verdict.AGREES
    verdict = "as the lecture says" if dearer else "which is not what the lecture says"
    said = (
        f"An action takes {_list_range(plan, 'ms')} of processor time where it is planned anew "
        f"({join_words(planners)}) and {_list_range(act, 'ms')} where a policy gives it "
        f"({join_words(policies)}), {verdict}.{describe_whole_plans(action)}"
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
        f"{said} Whole trainings took {_list_range(plan, 'processor minutes')} with replanning "
        f"and {_list_range(act, 'processor minutes')} with policies{turn}."
    )


def describe_whole_plans(action_ms: Results) -> str:
    """What an action of a whole plan takes, as a sentence after others."""
    whole = [rung for rung in WHOLE if rung in action_ms]
    if not whole:
        return ""
    took = _list_range([action_ms[rung] for rung in whole], "ms")
    return (
        f" Where whole plans are executed ({join_words(whole)}) it takes {took}, since all steps "
        "of a plan share its price."
    )


def _list_range(numbers: list[float], unit: str) -> str:
    low, high = (f"{f(numbers):.2g}" for f in (min, max))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    note = "training episodes with their exploration noise, mean of the seeds"
    note = "; ".join(filter(None, (note, describe_prefill(curves))))
    final_note = "without noise"
    if RANDOM_ONLY in curves:
        final_note += f"; of plans, also with {RANDOM_ONLY}, whose curves show its random data"
    spent = compare_spent(curves)
    seeds = list_shared_seeds(*curves.values())
    rows = [
        (
            label,
            str(len(curve["seeds"])),
            describe_mean(curve["final"]),
            f"{results['action_ms'][label]:.2g}",
            f"{np.mean(curve['updates']):,.0f}",
            f"{spent[label]:.2f}" if spent else "unknown",
        )
        for label, curve in curves.items()
    ]
    head = (
        "rung",
        "seeds",
        "closing return",
        "ms per action",
        "updates of the model",
        "processor minutes",
    )
    return (
        plot_curves("Returns by environment steps", curves, "frames", note, levels)
        + plot_curves("Returns by processor time", curves, "minutes", note, levels)
        + plot_finals("Returns of the closing evaluation", curves, final_note, levels)
        + render_table(caption_minutes(seeds if spent else []), head, rows)
    )


def caption_minutes(seeds: Sequence[int]) -> str:
    """Which seeds the processor minutes are of, and what they are spent on."""
    if not seeds:
        return "Processor minutes are unknown, or no seed is common to all rungs"
    numbers = f"seed number{'s' * (len(seeds) > 1)} {join_words([str(seed) for seed in seeds])}"
    return (
        f"Processor minutes are of whole trainings, means over the seeds that all rungs have "
        f"({numbers}); they go into updates of the model, into plans, and into updates of a policy"
    )


LESSON = Lesson(
    "returns",
    "The rungs",
    "that returns rise with each rung, as it mends what the one below gets wrong, and that "
    "planning anew at every step costs more compute than a learnt policy.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    needs_all=False,
)
