"""Make docs/reliability.md from the results of the fault tests.

python benchmarks/reliability.py [--run] [FILE]

--run first runs every test marked `fault` and rewrites FILE (docs/results/reliability.jsonl) with
a line for each test that passed: its row, the fault, how often, the outcome and the steps lost. A
test that did not run or did not pass is not in the table. --soak and --saves add the figures of
benchmarks/soak.py and benchmarks/saves.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "results" / "reliability.jsonl", ROOT / "docs" / "reliability.md"

HEAD = """# Reliability

Tests inject these faults into the real program; the table gives the outcome.
`python benchmarks/reliability.py` makes this page from `docs/results/reliability.jsonl`, to which
every test marked `fault` adds a line when it passes; `--run` runs those tests again. "Lost" is the
number of environment steps that the final result lacks. It is 0 if weights, optimiser,
generators, replay and metrics are hash-equal to those of an undisturbed run, and empty if the
test does not measure it.

| row | fault injected | times | outcome | lost | test |
|---|---|---|---|---|---|
"""
TAIL = """
## Limits

- The rows of `benchmarks/saves.py` repeat the same 256 frames, so they compress better than those
  of a run.
- The soak lasted only as long as stated above.
- If the disk fills while Python 3.11 imports a module for the first time, Python writes half a
  byte-code file and reads it again at each start: `EOFError: marshal data too short`. `./wm`
  avoids this by compiling what it installs at once. For this project's own files, after a
  `git pull`, delete the `__pycache__` folders in `worldmodel/` and `envs/`.
- The same seed and number of threads give the same hashes on a CPU, across restarts and with
  parallel environments. On a GPU reductions may add in another order from run to run; equality
  there is neither promised nor measured.
- With `env.num 1`, and always in evaluation, the environment runs in the training process. Its
  exceptions are caught, but a hanging environment hangs the run, and a crash ends it. With
  `env.num 2` or more every collecting environment runs in its own supervised process. Evaluation
  has no such option (`log.eval 0` leaves only the closing evaluation). `kill -9` ends a hanging
  run, and the same command resumes it from the last checkpoint.
- Exit codes: 0 done, 2 configuration, 3 environment, 4 bad data, 5 diverged, 74 disk, memory,
  busy directory or lost rank, 75 stopped and resumable, 130 or 143 ended at once by a signal. The
  last checkpoint is kept in every case.
- `worldmodel/system/fault_injection.py` names every sub-step of a save at which a fault can be
  injected.

For twenty times as many fuzz inputs, twenty times as many sets of stops, and a soak of one minute
as in CI:

```
WM_FUZZ=20 pytest tests/fuzz
WM_RESUMES=20 pytest tests/faults/test_exact_resume.py
WM_SOAK=60 pytest tests/faults/test_soak.py
```
"""


def run_fault_tests(record: Path) -> int:
    """Run the fault tests, which record their results; return pytest's exit code.

    The figures of soak and saves stay in the record.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    kept = (
        [x for x in record.read_text().splitlines() if "kind" in json.loads(x)]
        if record.exists()
        else []
    )
    record.write_text("".join(f"{x}\n" for x in kept))
    env = {**os.environ, "WM_SURVIVED": str(record)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "fault", "tests"], cwd=ROOT, env=env
    ).returncode


def format_table(lines: list[dict]) -> str:
    """Format one row per injected fault; the cases of a parametrised test are added up."""
    groups: dict[tuple, list[dict]] = {}
    latest = {(line["row"], line["test"], line["case"]): line for line in lines}
    for line in latest.values():
        groups.setdefault(
            (line["row"], line["injected"], line["outcome"], line["test"]), []
        ).append(line)
    rows = []
    for (row, injected, outcome, test), found in sorted(
        groups.items(), key=lambda g: (g[0][0], g[0][3])
    ):
        times = sum(line.get("times", 1) for line in found)
        lost = {line["lost"] for line in found if "lost" in line}
        rows.append(
            f"| {row} | {injected} | {times:,} | {outcome} | {max(lost) if lost else ''} "
            f"| `{test}` |"
        )
    return "\n".join(rows) + "\n"


def format_soak(line: dict) -> str:
    """Format the soak's paragraph and table."""
    shown = {
        k.replace("_", " "): [v[x] for x in ("first", "last", "most", "per_hour")]
        for k, v in line["growth"].items()
    }
    kinds = "".join(
        f"| {k} | {' | '.join(f'{x:g}' for x in values)} |\n" for k, values in shown.items()
    )
    text = (
        f"`python benchmarks/soak.py`, {line['on']}: {line['minutes']:g} minutes, "
        f"{line['frames']:,} frames, {line['updates']:,} updates, {line['killed']} workers "
        f"killed. The table covers the last two thirds:"
    )
    return (
        f"\n{textwrap.fill(text, 98, break_on_hyphens=False)}\n\n"
        f"| | first | last | most | growth an hour |\n|---|---|---|---|---|\n{kinds}"
    )


def format_saves(line: dict) -> str:
    """Format the paragraph on the cost of a save."""
    rows, pauses, pixels = line["replay_rows"], line["seconds"], line["pixels"]
    text = (
        f"`python benchmarks/saves.py {' '.join(line['presets'])} --size {pixels}`, {line['on']}. "
        f"The replay held {rows:,} rows of {pixels}x{pixels} images "
        f"({line['megabytes_replay']:g} MB on disk), {line['rows_between_saves']:,} of them new "
        f"since the last save. A save paused training for {min(pauses):g} to {max(pauses):g} "
        f"seconds ({len(pauses)} saves) and wrote at most {max(line['megabytes_written']):g} MB."
    )
    return f"\n{textwrap.fill(text, 98, break_on_hyphens=False)}\n"


def make_page(lines: list[dict]) -> str:
    """Make the whole document."""
    tests = [line for line in lines if "row" in line]
    seen = {line["row"] for line in tests}
    missing = [str(row) for row in range(1, 27) if row not in seen]
    text = HEAD + format_table(tests)
    fuzzed = sum(
        line.get("times", 0)
        for line in tests
        if line["test"].startswith(("test_fuzz_directories", "test_fuzz_runs"))
    )
    text += (
        "\nThe fuzz tests (`tests/fuzz/test_fuzz_directories.py`, `tests/fuzz/test_fuzz_runs.py`)\n"
        f"tried {fuzzed:,} mutated inputs in all.\n"
    )
    if missing:
        text += (
            "\nNot in the table, since no test of them has run for it: "
            f"rows {', '.join(missing)}.\n"
        )
    for kind, heading, write in (("soak", "Soak", format_soak), ("saves", "Saves", format_saves)):
        found = {
            str(line.get("pixels")): write(line) for line in lines if line.get("kind") == kind
        }
        text += f"\n## {heading}\n" + (
            "".join(found.values()) or f"\n`benchmarks/{kind}.py`: not measured yet.\n"
        )
    return text + TAIL


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", nargs="?", type=Path, default=RECORD)
    parser.add_argument("--run", action="store_true")
    for kind in ("soak", "saves"):
        parser.add_argument(f"--{kind}", type=Path, help=f"the output of benchmarks/{kind}.py")
    parser.add_argument("--on", default="", help="the machine on which --soak and --saves ran")
    args = parser.parse_args(argv)
    code = run_fault_tests(args.record) if args.run else 0
    with args.record.open("a") as file:
        for kind in ("soak", "saves"):
            if path := getattr(args, kind):
                file.write(
                    json.dumps({"kind": kind, "on": args.on, **json.loads(path.read_text())})
                    + "\n"
                )
    PAGE.write_text(make_page([json.loads(x) for x in args.record.read_text().splitlines()]))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
