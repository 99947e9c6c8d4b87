"""Which tests run which lines: recorded once, test file by test file, in a copy of the tree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.mutation.line_recorder import read_lines
from benchmarks.mutation.operators import Mutant
from benchmarks.mutation.workplace import ROOT, Workplace, hash_text

RECORDING_SECONDS = 900.0  # the limit of one test while its lines are recorded


def record_file(place: Workplace, name: str) -> dict[str, Any]:
    """Run a file of tests: the lines and the seconds of each test that passes."""
    folder = place.scratch / "lines"
    folder.mkdir()
    answer = place.server.run_tests(
        {name: RECORDING_SECONDS}, lines=folder, options=["-m", "not slow"]
    )
    tests = {
        test: {"seconds": answer["seconds"][test], "lines": read_lines(folder / file)}
        for test, file in answer["lines"].items()
        if answer["outcomes"].get(test) == "passed"
    }
    others = {test: answer["outcomes"].get(test) for test in answer["lines"] if test not in tests}
    seen = {path for facts in tests.values() for path in facts["lines"]}
    shutil.rmtree(folder)
    return {
        "sha": hash_text(place.tree / name),
        "sources": {path: hash_text(place.tree / path) for path in sorted(seen)},
        "tests": tests,
        "others": others,
        "outcome": answer["outcome"],
    }


def load_record(place: Path) -> dict[str, Any]:
    return json.loads(place.read_text()) if place.exists() else {}


def choose_tests(mutant: Mutant, record: dict[str, Any], budget: float) -> dict[str, float]:
    """The tests that run a mutant's lines, with their seconds: those of its own room and the
    cheapest first.
    """
    first, last = mutant.lines
    room = f"tests/{mutant.path.split('/')[1]}/"
    now, found = hash_text(ROOT / mutant.path), []
    for name, entry in record.items():
        moved = entry["sources"].get(mutant.path) != now  # lines are others than when recorded
        for test, facts in entry["tests"].items():
            lines = facts["lines"].get(mutant.path, ())
            own = first == 1 and name.startswith(room)  # it runs, or is read, on import
            if own or any(moved or first <= line <= last for line in lines):
                found.append((not name.startswith(room), facts["seconds"], test))
    chosen, spent = {}, 0.0
    for _, seconds, test in sorted(found):
        spent += seconds
        if chosen and spent > budget:
            break
        chosen[test] = seconds
    by_file = {test.partition("::")[0]: None for test in chosen}
    return {
        test: chosen[test] for name in by_file for test in chosen if test.startswith(name + "::")
    }
