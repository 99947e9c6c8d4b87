"""python benchmarks/reliability.py [--run] [FILE]: docs/reliability.md out of what the tests have
survived.

--run first runs every test marked `fault` and writes FILE anew (docs/results/reliability.jsonl): a line for each that
passed, with its row, what was injected, how often, what came of it and how many steps were lost. What did not run or
did not pass is not in the table. benchmarks/soak.py and benchmarks/saves.py add their figures by --soak and --saves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "results" / "reliability.jsonl", ROOT / "docs" / "reliability.md"

HEAD = """# Reliability

What was done to the real program, and what came of it. Made by `python benchmarks/reliability.py` from
`docs/results/reliability.jsonl`, where every test marked `fault` leaves a line when it has passed. "Lost" counts
environment steps that the end's result lacks: 0 where weights, optimiser, generators, replay and metrics are hash-equal
to those of a run that nobody disturbed, empty where that is not the question. `--run` runs those tests again.

| row | fault injected | times | outcome | lost | test |
|---|---|---|---|---|---|
"""
TAIL = """
## Said plainly

- The rows of `benchmarks/saves.py` are 256 frames over and over: they pack better than those of a run.
- The soak lasted as long as it says, no longer.
- Python 3.11 itself writes half a file of byte code where the disk is full as a module is first imported, and reads it
  again at each start: `EOFError: marshal data too short`. What `./wm` installs is compiled then and there; for files of
  this project, new since a `git pull`, deleting `worldmodel/__pycache__` and `envs/__pycache__` is the cure.
- The same seed and as many threads give the same hashes on a CPU: across restarts, and with environments side by side.
  On a GPU reductions may add in another order from run to run; equality there is neither promised nor measured.
- With `env.num 1`, and in evaluation always, the environment runs in the training's own process: what it raises is
  caught, but one that hangs there hangs the run, and one that crashes ends it. `env.num 2` has every collecting
  environment watched in a process of its own; for evaluation there is no such switch (`log.eval 0` leaves the closing
  one). `kill -9` ends a run that hangs, and the same command goes on from the last checkpoint.
- Exit codes: 0 done, 2 configuration, 3 environment, 4 bad data, 5 diverged, 74 disk, memory, busy directory or lost
  rank, 75 stopped and resumable. After any of them what the last checkpoint holds is kept.
- Where to strike: `worldmodel/system/fault_injection.py` names every sub-step of a save. Twenty times as many inputs are tried by
  `WM_FUZZ=20 pytest tests/fuzz/test_fuzz_directories.py tests/fuzz/test_fuzz_runs.py tests/fuzz/test_fuzz_config.py`, as many lots of stops by
  `WM_RESUMES=20 pytest tests/faults/test_exact_resume.py`; `WM_SOAK=60 pytest tests/faults/test_soak.py` is a soak of a minute, as
  CI runs it.
"""


def run(record: Path) -> int:
    """Every test of a fault, noted as it passes; pytest's own exit code. Figures of soak and saves
    stay.
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


def table(lines: list[dict]) -> str:
    """One row for each fault a test puts in; the runs of a parametrised test are counted
    together.
    """
    groups: dict[tuple, list[dict]] = {}
    for line in {
        (line["row"], line["test"], line["case"]): line for line in lines
    }.values():  # the last of each
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
            f"| {row} | {injected} | {times:,} | {outcome} | {max(lost) if lost else ''} | "
            f"`{test}` |"
        )
    return "\n".join(rows) + "\n"


def soaked(line: dict) -> str:
    """The soak's paragraph and table."""
    shown = {
        k.replace("_", " "): [v[x] for x in ("first", "last", "most", "per_hour")]
        for k, v in line["growth"].items()
    }
    kinds = "".join(
        f"| {k} | {' | '.join(f'{x:g}' for x in values)} |\n" for k, values in shown.items()
    )
    return (
        f"\n`python benchmarks/soak.py`, {line['on']}: {line['minutes']:g} minutes, "
        f"{line['frames']:,} "
        f"frames, {line['updates']:,} updates, {line['killed']} workers killed. Over the last "
        f"two thirds of them:\n\n"
        f"| | first | last | most | growth an hour |\n|---|---|---|---|---|\n{kinds}"
    )


def saved(line: dict) -> str:
    """What a save costs."""
    rows, pauses, pixels = line["replay_rows"], line["seconds"], line["pixels"]
    return (
        f"\n`python benchmarks/saves.py {' '.join(line['presets'])} --size {pixels}`, "
        f"{line['on']}. With {rows:,} rows "
        f"of {pixels}x{pixels} pictures in the replay ({line['megabytes_replay']:g} MB on disk), "
        f"{line['rows_between_saves']:,} of them new since the last save, a training paused for "
        f"{min(pauses):g} to "
        f"{max(pauses):g} seconds ({len(pauses)} saves) and wrote "
        f"{max(line['megabytes_written']):g} MB at most.\n"
    )


def page(lines: list[dict]) -> str:
    """The whole document."""
    tests = [line for line in lines if "row" in line]
    seen = {line["row"] for line in tests}
    missing = [str(row) for row in range(1, 27) if row not in seen]
    text = HEAD + table(tests)
    fuzzed = sum(line.get("times", 0) for line in tests if line["test"].startswith("test_fuzz"))
    text += f"\nThe fuzz (`tests/fuzz/test_fuzz_directories.py`, `tests/fuzz/test_fuzz_runs.py`) tried {fuzzed:,} mutated inputs in all.\n"
    if missing:
        text += f"\nNot in the table, since no test of them has run for it: rows {', '.join(missing)}.\n"
    for kind, heading, write in (("soak", "Soak", soaked), ("saves", "Saves", saved)):
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
        parser.add_argument(f"--{kind}", type=Path, help=f"what benchmarks/{kind}.py has printed")
    parser.add_argument("--on", default="", help="the machine of --soak and --saves")
    args = parser.parse_args(argv)
    code = run(args.record) if args.run else 0
    with args.record.open("a") as file:
        for kind in ("soak", "saves"):
            if path := getattr(args, kind):
                file.write(
                    json.dumps({"kind": kind, "on": args.on, **json.loads(path.read_text())})
                    + "\n"
                )
    PAGE.write_text(page([json.loads(x) for x in args.record.read_text().splitlines()]))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
