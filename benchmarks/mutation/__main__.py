"""Put wrong equations into a copy of the code, one at a time, and see whether a test fails.

python -m benchmarks.mutation --list        the mutants that are drawn
python -m benchmarks.mutation --record      which tests run which lines (once, and after changes)
python -m benchmarks.mutation               run those without a result; writes results and page
python -m benchmarks.mutation --survivors   run survivors again, with more tests
python -m benchmarks.mutation --seed 1      another draw, which no test was written for: its score
python -m benchmarks.mutation --group rungs --count 60    a draw from the files of a group alone
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.mutation.draw import COUNT, GROUPS, SEED, draw_group, draw_mutants
from benchmarks.mutation.lines import choose_tests, load_record, record_file
from benchmarks.mutation.operators import Mutant
from benchmarks.mutation.results import (
    KILLED,
    NOT_RUN,
    SURVIVED,
    TIMEOUT,
    Outcome,
    append_outcome,
    read_equivalents,
    read_outcomes,
    render_page,
    write_outcomes,
)
from benchmarks.mutation.workplace import ROOT, Workplace, hash_text

RECORD = ROOT / ".mutation" / "lines.json"
RESULTS = ROOT / "docs" / "results" / "mutation"
EQUIVALENT = Path(__file__).with_name("equivalent.json")
PAGE = ROOT / "docs" / "mutation.md"
BEGIN, END = "<!-- generated: results -->", "<!-- end of the results -->"

# Tests whose lines are recorded: those of the packages, and some that start the whole program.
RECORDED = [f"tests/{room}/test_*.py" for room in ("model", "policy", "replay", "rollout")]
RECORDED += [f"tests/{room}/test_*.py" for room in ("training", "kernels", "checkpoint")]
RECORDED += ["tests/test_published_equations.py", "tests/test_dream_env.py"]
RECORDED += ["tests/programs/test_training.py"]
RECORDED += ["tests/faults/test_exact_resume.py"]

# Code that runs only on hardware of its own, and the file whose tests are skipped elsewhere.
NEEDS = {
    "worldmodel/kernels/planning_step.py": (
        "a processor that multiplies bf16",
        "tests/kernels/test_planning_step.py",
    ),
    "worldmodel/kernels/cuda_graph.py": ("a GPU", "tests/kernels/test_cuda_graph.py"),
}
SECONDS, MORE_SECONDS = 120.0, 400.0  # of tests a mutant, as they were recorded


def record_lines(names: Iterable[str]) -> None:
    """Record the tests of files that have changed since they were recorded."""
    record = load_record(RECORD)
    RECORD.parent.mkdir(exist_ok=True)
    with Workplace() as place:
        for name in names:
            if record.get(name, {}).get("sha") == hash_text(ROOT / name):
                continue
            before = time.monotonic()
            record[name] = record_file(place, name)
            RECORD.write_text(json.dumps(record))
            passed, others = len(record[name]["tests"]), len(record[name]["others"])
            seconds = time.monotonic() - before
            say(f"{name}: {passed} tests recorded, {others} left out, {seconds:.0f} s")


def list_recorded() -> list[str]:
    found = (path for pattern in RECORDED for path in sorted(ROOT.glob(pattern)))
    return [path.relative_to(ROOT).as_posix() for path in found]


def run_one(
    place: Workplace, mutant: Mutant, tests: dict[str, float], record: dict[str, Any]
) -> Outcome:
    before = time.monotonic()
    status, test, own, message = SURVIVED, None, None, "no test runs this line"
    if tests:
        answer = place.run_mutant(mutant, tests)
        status = {"passed": SURVIVED, "timeout": TIMEOUT}.get(answer["outcome"], KILLED)
        if answer["outcome"] == "empty":
            raise RuntimeError(f"none of these tests exists: {list(tests)}")
        test, message = answer.get("test"), answer.get("message", answer["outcome"])
        own = answer["seconds"].get(test)
    if status == SURVIVED and mutant.path in NEEDS:
        hardware, own_tests = NEEDS[mutant.path]
        if not tests or not record.get(own_tests, {}).get("tests"):
            status, message = NOT_RUN, f"needs {hardware}"
    seconds = round(time.monotonic() - before, 1)
    sha = hash_text(place.tree / mutant.path)
    facts = (sha, status, test, own, message[:200], seconds, len(tests))
    return Outcome(*mutant.key, mutant.operator, *facts)


def is_due(mutant: Mutant, known: Outcome | None, survivors: bool) -> bool:
    """Whether a mutant has no result, or survived and may not: those proven equivalent will."""
    if known is None or known.sha != hash_text(ROOT / mutant.path):
        return True
    survived = known.status in (SURVIVED, NOT_RUN)
    return survivors and survived and mutant.key not in read_equivalents(EQUIVALENT)


def run_mutants(mutants: list[Mutant], results: Path, workers: int, survivors: bool) -> None:
    record, known = load_record(RECORD), read_outcomes(results)
    due = [m for m in mutants if is_due(m, known.get(m.key), survivors)]
    idle: queue.SimpleQueue[Workplace] = queue.SimpleQueue()

    def run(mutant: Mutant) -> Outcome:
        """A mutant that is run again meets the test that killed it before all others."""
        place = idle.get()
        try:
            tests = choose_tests(mutant, record, MORE_SECONDS if survivors else SECONDS)
            before = known.get(mutant.key)
            if before and before.test in tests:
                outcome = run_one(place, mutant, {before.test: tests[before.test]}, record)
                if outcome.status != SURVIVED:
                    return outcome
            return run_one(place, mutant, tests, record)
        finally:
            idle.put(place)

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        places = [stack.enter_context(Workplace()) for _ in range(workers)]
        for place in places:
            place.compile_all(record)
            idle.put(place)
        found = {pool.submit(run, mutant): mutant for mutant in due}
        try:
            for done, future in enumerate(as_completed(found), 1):
                outcome = future.result()
                append_outcome(results, outcome)
                what = outcome.test or outcome.message
                say(f"{done}/{len(due)} {outcome.status}, {show(found[future])}: {what}")
        except BaseException:  # also Ctrl-C and SIGTERM: end what runs and begin no more
            pool.shutdown(wait=False, cancel_futures=True)
            for place in places:
                place.server.close()
            raise


def write_report(mutants: list[Mutant], results: Path) -> None:
    """Sort the results as drawn and write the page; its record alone drops mutants that are gone,
    and those of other draws keep them.
    """
    outcomes = read_outcomes(results)
    order = [m.key for m in mutants if m.key in outcomes]
    if results != locate_results(SEED):
        order = list(dict.fromkeys([*order, *outcomes]))
    write_outcomes(results, (outcomes[key] for key in order))
    text = render_page(mutants, outcomes, read_equivalents(EQUIVALENT))
    if results != locate_results(SEED):
        say(text)
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")


def locate_results(seed: int) -> Path:
    return RESULTS / ("mutants.jsonl" if seed == SEED else f"seed-{seed}.jsonl")


def show(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.lineno} {mutant.operator}: {mutant.change[:70]}"


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--list", action="store_true", help="show the mutants and end")
    parser.add_argument("--record", action="store_true", help="record lines before")
    parser.add_argument("--report", action="store_true", help="write the page and end")
    parser.add_argument("--survivors", action="store_true", help="run survivors again")
    parser.add_argument("--only", default="", help="only mutants of paths that contain this")
    parser.add_argument("--group", choices=GROUPS, help="draw from the files of a group alone")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results, tests = locate_results(options.seed), list_recorded
    if options.group:
        mutants = draw_group(ROOT, options.group, options.count, options.seed)
        results = RESULTS / f"{options.group}-{options.seed}.jsonl"
        tests = partial(list, GROUPS[options.group][1])
    else:
        mutants = draw_mutants(ROOT, options.count, options.seed)
    if options.list:
        for m in mutants:
            say(f"{show(m)} | {m.line}")
        return
    if options.record:
        record_lines(tests())
    if not options.report:
        if not RECORD.exists():
            sys.exit("no lines are recorded yet: run with --record first")
        chosen = [m for m in mutants if options.only in m.path]
        run_mutants(chosen, results, options.workers, options.survivors)
    write_report(mutants, results)


if __name__ == "__main__":
    main()
