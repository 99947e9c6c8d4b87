"""1.0 against 1.5: whole plans against a new plan at every step."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.learning_curves import (
    compare_spent,
    describe_prefill,
    match_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import (
    APART,
    Claim,
    describe_count,
    describe_mean,
    describe_verdict,
    judge,
    name_verdict,
    state_absence,
    state_finding,
)
from worldmodel.ladder.trainings import Study

OPEN_LOOP, MPC = "v10", "v15"
DEARER = 1.05  # times a processor time, above which another is clearly longer


def list_labels(study: Study) -> list[str]:
    return [OPEN_LOOP, MPC]


def measure(material: Material) -> Results:
    labels = (OPEN_LOOP, MPC)
    return {
        "curves": {name: read_curves(material.runs[name]) for name in labels},
        "action_ms": {name: material.measure_action_time(name) for name in labels},
        "horizon": material.open(OPEN_LOOP).config.planner.horizon,
        "references": material.measure_references(MPC),
    }


def summarize(results: Results) -> str:
    curves = match_seeds(results["curves"])
    whole, anew = (curves[name]["final"] for name in (OPEN_LOOP, MPC))
    if not anew:
        return state_absence(APART)
    sign = judge(anew, whole)
    what = {1: "clearly more", 0: "not clearly more", -1: "clearly less"}[sign]
    returns = Claim(
        name_verdict(sign),
        f"planning anew ({MPC}) returns {what} than whole plans ({OPEN_LOOP}), "
        f"{np.mean(anew):.1f} against {np.mean(whole):.1f} over "
        f"{describe_count(len(anew), 'seed')}",
    )
    return state_finding([returns, claim_price(results)])


def claim_price(results: Results) -> Claim:
    """An action takes more processor time where it is planned anew."""
    ratio, whole = compare_actions(results), compare_trainings(results)
    sign = 1 if ratio > DEARER else -1 if ratio < 1 / DEARER else 0
    training = "" if whole is None else f", the whole training {whole:.1f} times"
    said = f"an action takes {ratio:.1f} times the processor time{training}"
    return Claim(name_verdict(sign), said)


def compare_actions(results: Results) -> float:
    """How many times the processor time of an action of a whole plan one of replanning takes."""
    took = results["action_ms"]
    return took[MPC] / max(1e-9, took[OPEN_LOOP])


def compare_trainings(results: Results) -> float | None:
    """How many times the processor time of whole plans replanning took; None if not known."""
    spent = compare_spent(results["curves"])
    return None if spent is None else spent[MPC] / max(1e-9, spent[OPEN_LOOP])


def describe(results: Results) -> str:
    curves = match_seeds(results["curves"])
    whole, anew = (curves[name]["final"] for name in (OPEN_LOOP, MPC))
    if not anew:
        return f"Returns cannot be compared: {APART}."
    verdict = describe_verdict(judge(anew, whole), len(anew))
    return (
        f"Replanning ({MPC}) got {describe_mean(anew)} and whole plans ({OPEN_LOOP}) got "
        f"{describe_mean(whole)}: {verdict}.\n{describe_price(results)}\nHow errors add up along "
        "a plan is not measured here but under error against rollout length."
    )


def describe_price(results: Results) -> str:
    took, ratio, whole = results["action_ms"], compare_actions(results), compare_trainings(results)
    verdict = "as the lecture says" if ratio > DEARER else "which is not what the lecture says"
    said = (
        f"An action takes {took[MPC]:.2g} ms of processor time with replanning and "
        f"{took[OPEN_LOOP]:.2g} ms with whole plans, whose price all their steps share: "
        f"{ratio:.1f} times as much, {verdict}."
    )
    if whole is None:
        return said
    return (
        f"{said} The whole training, with its updates, took {whole:.1f} times the processor time."
    )


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    note = "; ".join(
        filter(
            None,
            (
                "training episodes, mean of the seeds",
                describe_prefill(curves),
                f"a whole plan has {describe_count(results['horizon'], 'step')}, then {OPEN_LOOP} "
                "plans again",
            ),
        )
    )
    return plot_curves(
        "Returns by environment steps", curves, "frames", note, levels
    ) + plot_finals("Returns of the closing evaluation", curves, "", levels)


LESSON = Lesson(
    "replanning",
    "1.0 against 1.5: replanning",
    "that planning anew at every step, from what was observed, returns more, as errors of the "
    "model add up along a plan, at the price of more planning.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
)
