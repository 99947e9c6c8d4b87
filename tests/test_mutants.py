"""Twenty wrong equations of those on record, each of which one test must still notice.

docs/mutation.md has the whole record. A mutant is found again by its text, wherever its line has
moved to; one that is gone, or whose test is, leaves its place to the next.
"""

import itertools
from pathlib import Path

from benchmarks.mutation.draw import PACKAGES, find_package, rank
from benchmarks.mutation.operators import find_mutants
from benchmarks.mutation.results import KILLED, read_outcomes
from benchmarks.mutation.workplace import Workplace

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "mutation" / "mutants.jsonl"
COUNT, SPARE = 20, 8
QUICK = 2.0  # seconds that the test of a mutant took on a busy machine


def list_candidates():
    """Recorded mutants that the code still has and a quick test killed, a package after another."""
    found = {package: [] for package in PACKAGES}
    for outcome in read_outcomes(RECORD).values():
        name = str(outcome.test).partition("::")[0]
        quick = outcome.test_seconds is not None and outcome.test_seconds < QUICK
        if outcome.status == KILLED and quick and (ROOT / name).is_file():
            found[find_package(outcome.path)].append(outcome)
    for outcomes in found.values():
        outcomes.sort(key=lambda outcome: rank("again", *outcome.key))
    return [o for group in itertools.zip_longest(*found.values()) for o in group if o]


def find_again(outcome):
    """A recorded mutant in the code as it stands, or None."""
    path = ROOT / outcome.path
    mutants = find_mutants(outcome.path, path.read_bytes()) if path.exists() else []
    return next((m for m in mutants if m.key == outcome.key), None)


def choose_pairs():
    """Mutants with the tests that killed them: twenty, and some to spare."""
    pairs = ((find_again(outcome), outcome.test) for outcome in list_candidates())
    there = (pair for pair in pairs if pair[0] is not None)
    return list(itertools.islice(there, COUNT + SPARE))


def test_wrong_equations_on_record_are_still_noticed():
    pairs = choose_pairs()
    with Workplace() as place:
        # Without a mutant all pass: what fails afterwards fails because of it.
        answer = place.run_tests(dict.fromkeys((test for _, test in pairs), QUICK))
        assert answer["outcome"] == "passed", answer
        pairs = [pair for pair in pairs if pair[1] in answer["outcomes"]][:COUNT]
        assert len(pairs) == COUNT, "run python -m benchmarks.mutation: its record is old"
        for mutant, test in pairs:
            answer = place.run_mutant(mutant, {test: QUICK})
            noticed = answer["outcome"] == "failed" and answer["test"] == test
            assert noticed, f"{test} passes with {mutant.path}: {mutant.line}: {mutant.change}"
