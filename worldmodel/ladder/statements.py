"""Comparisons of numbers as words, and the sentence that says whether a lecture is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

CLEAR = 2.0  # standard errors that a clear difference has at least
CLEAR_SHARE = 0.05  # of the larger number, where there is no error to compare with
APART = "the trainings have no seed in common"  # why two returns are not compared


class Verdict(Enum):
    """How a measurement compares with what the lecture says, as the first words of a sentence."""

    AGREES = "The measurement agrees"
    PARTLY = "The measurement agrees in part"
    UNCLEAR = "The measurement is not clear"
    DISAGREES = "The measurement disagrees"
    UNMEASURED = "It was not measured"


class Claim(NamedTuple):
    """One thing that the lecture expects: whether it was found, and the figures as a clause."""

    verdict: Verdict
    clause: str


def name_verdict(comparison: int) -> Verdict:
    """The verdict of a comparison that is 1 where the lecture is right, as `judge` gives it."""
    return {1: Verdict.AGREES, 0: Verdict.UNCLEAR, -1: Verdict.DISAGREES}[comparison]


def combine_verdicts(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all of them: it agrees only if each does, and any that does makes it partly
    right. Without verdicts nothing was measured.
    """
    found = set(verdicts)
    if found == {Verdict.AGREES}:
        return Verdict.AGREES
    if found & {Verdict.AGREES, Verdict.PARTLY}:
        return Verdict.PARTLY
    for verdict in (Verdict.DISAGREES, Verdict.UNCLEAR):
        if verdict in found:
            return verdict
    return Verdict.UNMEASURED


def state_finding(claims: Sequence[Claim], before: str = "", after: str = "") -> str:
    """One sentence: the verdict on all claims, then those that are right, then the others."""
    verdict = combine_verdicts(claim.verdict for claim in claims)
    right, others = (
        [claim.clause for claim in claims if (claim.verdict is Verdict.AGREES) == agrees]
        for agrees in (True, False)
    )
    said = ", but ".join(_join_clauses(clauses) for clauses in (right, others) if clauses)
    return f"{verdict.value}: {before}{said}{after}."


def _join_clauses(clauses: Sequence[str]) -> str:
    *before, last = clauses
    return f"{', '.join(before)}, and {last}" if before else last


def state_absence(why: str) -> str:
    """The sentence of a lesson without figures."""
    return f"{Verdict.UNMEASURED.value}: {why}."


def judge(a: Sequence[float], b: Sequence[float]) -> int:
    """1 where a is clearly above b, -1 where it is below, 0 where their seeds overlap.

    Clear is a difference of two standard errors. A single number on either side has none: then it
    is a share of the larger number.
    """
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) > 1:
        least = CLEAR * math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    else:
        least = CLEAR_SHARE * max(abs(np.mean(a)), abs(np.mean(b)))
    return 0 if abs(difference) < least else int(np.sign(difference))


def describe_verdict(verdict: int, seeds: int) -> str:
    """Whether a comparison agrees with the lecture: 1, 0 or -1, over so many seeds."""
    over = describe_count(seeds, "seed")
    return {
        1: f"as the lecture says ({over})",
        0: f"no clear difference over {over}, so this does not show what the lecture says",
        -1: f"the opposite of what the lecture says ({over})",
    }[verdict]


def describe_count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def describe_mean(scores: Sequence[float]) -> str:
    """A mean and the range of its seeds."""
    mean = f"{np.mean(scores):.1f}"
    return mean if len(scores) < 2 else f"{mean} ({min(scores):.1f} to {max(scores):.1f})"


def describe_signed(x: float) -> str:
    """A number with its sign and two decimals; one that rounds to zero has none."""
    text = f"{x:+.2f}"
    return "0.00" if float(text) == 0 else text


def join_words(words: Sequence[str]) -> str:
    """The words as a list in a sentence: a, b and c."""
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def describe_steps(verdicts: Mapping[str, int]) -> str:
    """Which steps of an order that should rise do, which fall, and which are unclear."""
    words = []
    for verdict, what in (
        (1, "rises from"),
        (0, "shows no clear change from"),
        (-1, "falls from"),
    ):
        steps = [step for step, own in verdicts.items() if own == verdict]
        if steps:
            words.append(f"{what} {join_words(steps)}")
    return "; it ".join(words)
