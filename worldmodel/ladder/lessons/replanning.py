"""1.0 against 1.5: whole plans against a new plan at every step."""

from __future__ import annotations

import numpy as np

from worldmodel.ladder.learning_curves import (
    compare_spent,
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
    Verdict,
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
    curves = {name: read_curves(material.runs[name]) for name in (OPEN_LOOP, MPC)}
    return {"curves": curves, "references": material.measure_references(MPC)}


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
    """Replanning takes more processor time."""
    ratio = compare_price(results)
    if ratio is None:
        return Claim(Verdict.UNMEASURED, "its processor time is not known")
    sign = 1 if ratio > DEARER else -1 if ratio < 1 / DEARER else 0
    return Claim(name_verdict(sign), f"it takes {ratio:.1f} times the processor time")


def compare_price(results: Results) -> float | None:
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
        f"{describe_mean(whole)}: {verdict}.\n{describe_price(results)}How errors add up along a "
        "plan is not measured here but under error against rollout length."
    )


def describe_price(results: Results) -> str:
    ratio = compare_price(results)
    if ratio is None:
        return ""
    verdict = "as the lecture says" if ratio > DEARER else "which is not what the lecture says"
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
    "that planning anew at every step, from what was observed, returns more, as errors of the "
    "model add up along a plan, at the price of more planning.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
)
