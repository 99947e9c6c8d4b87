"""Make docs/reliability.md from the results of the fault tests.

python benchmarks/reliability.py [--run] [--repeat N] [--rows 27-39,9] [FILE]

--run first runs the tests marked `fault` and rewrites FILE (docs/results/reliability.jsonl) with a
line for each test that passed: its row, the fault, how often, the outcome and the steps lost.
--repeat runs each of them N times, each time in a new process, and adds up how often. --rows runs
those rows alone and keeps the lines of the others. A test that failed in any repetition, or did
not run in all of them, is named at the end and has no line; the exit code is 1 then. --soak and
--saves add the figures of benchmarks/soak.py and benchmarks/saves.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "results" / "reliability.jsonl", ROOT / "docs" / "reliability.md"
ROWS = range(1, 40)  # the rows of the table

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
## Exit codes

| code | meaning | afterwards |
|---|---|---|
| 0 | done: `status.json` of a training says so | |
| 1 | a bug, with its traceback | the same command resumes from the last checkpoint |
| 2 | a setting, an argument or a question that cannot be used | nothing was changed |
| 3 | the environment fails; `./wm` cannot set up; `./wm doctor`: not ready | the same command resumes once that is mended |
| 4 | saved data is damaged, missing or of another version | nothing was changed, except that damaged checkpoints are set aside |
| 5 | diverged | the last good checkpoint is kept |
| 74 | disk, memory, a busy directory, a lost rank; an evaluation whose standard output cannot be written | the same command resumes from the last checkpoint; the files of such an evaluation are complete |
| 75 | stopped by a signal or by `run.max_minutes` | all is saved; the same command resumes |
| 129, 130, 138, 143 | ended by SIGHUP, SIGINT, SIGUSR1 or SIGTERM | before the first step: nothing was begun, and the directory of a new run is removed; by a second signal: the same command resumes from the last checkpoint |

Signals: SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 are equal. SIGHUP is
ignored if it was so at the start, as with `nohup`. `eval.py` ends at the first signal (`play`
closes and exits with 0).

Output: where standard output or standard error is full, closed or a broken pipe, what is printed
is lost and nothing else. A training ends as it would have. An evaluation writes its files, and
then exits with 74 if standard output refused something; a closed pipe (`| head -1`) is no error.

## Trust

Opening a run executes nothing that its user did not name. Who may have written what:

| what | who may have written it | what is done with it |
|---|---|---|
| a run directory: `config.yaml`, checkpoints, replay, logs, results | anyone | read as data of checked shape and size; never unpickled, never a YAML object, never followed through a link |
| a packed run, its zip file, a repository of the hub | anyone | the same; unpacked by plain relative names into the user's cache, bounded in size, every file compared with the sha256 in its list |
| code that `env.task` of a saved run names: `module:Class`, `gym:module:Id`, also behind `distract:` | anyone | imported only if this user trained the run here, or names the code |
| arguments of constructors, `env.kwargs` of a saved run | anyone | given to the constructor if they are numbers, flags and single words; else only if this user trained the run here, or with `--trust` |
| the command line, and modules on `PYTHONPATH` | the user | executed as named: `train.py` imports the `env.task` that it is given |
| this checkout, its `.venv`, the state folder | the user | executed or believed |
| requests to the page of `play` | anyone on this machine | answered with a token and in the page's own name only |

- A training whose task names code writes `code.signature` into the run directory: an HMAC-SHA256
  of that name and of what the code is called with; so does one whose `env.kwargs` count as code.
  The key is 32 random bytes in
  `$XDG_STATE_HOME/worldmodel/key` (without that variable `~/.local/state/worldmodel/key`). It is
  made when it is first needed. It counts only if file and folder belong to the user and are closed
  to everyone else.
- A run that its user moves keeps that trust. A copy from elsewhere, a changed name, another key
  or no key at all ends it. Whoever copies a signature can only have the code of that signature
  imported, which the user has trained with.
- `./wm eval RUN --trust` imports the code all the same and prints its name;
  `--env.task NAME` does so only if the run names exactly this, and never makes `env.kwargs`
  trusted. Without either, `imagine`, `model`
  and `play` use the replay and say so in one line; `returns`, `compare` and `probe` end with one
  line and exit code 3. `report` and `returns --from saved` need no environment.
- In Python, `worldmodel.load` and `DreamEnv` import nothing that a run names, and
  `envs.make_factory` refuses such a task without `trust=True`.
- A resumed training imports the task of its command line. A run that was saved with another task
  is refused, exit code 2. Presets are files of this checkout and named without a path.
- Trusted code must be a subclass of `gymnasium.Env` or a function that returns one. Another class
  is never instantiated. A function has to be called before its result can be checked.
- Built-in tasks, `dmc:` tasks, the ids of Gymnasium and those of the packages in
  `envs/packages.py` need no trust: they import installed packages that this project names, not
  the run. Any other id does, such as one of Gymnasium without its version.
- `env.kwargs` of a saved run reach constructors that nobody here has read. One may open a file (a
  simulator's `xml_file`), an address or a module. So text counts as code, also for the ids that
  need no trust, unless it is one word of at most 64 letters, digits, `_` and `-`. Numbers and
  words can still ask for much memory or time. `render_mode` cannot be set: no window opens.
- Pictures are read in formats that Pillow itself decodes. For EPS it would start Ghostscript.
- `train.py`, `eval.py`, `./wm doctor` and the processes that they start import nothing from the
  folder in which they are called, unless `PYTHONPATH` names it. Nor do the packages that they
  import: GLFW starts a Python of its own, and matplotlib would read a `matplotlibrc` there.
- `worldmodel/system/trusted_code.py` lists every configuration key that may name code. A test
  fails if a new key of free text is neither listed there nor known to be harmless.

## Attacks

Somebody who had not written this code tried to have a run directory execute code, reach files
outside it, or stop the program. Each attack was made by hand with the real program, before and
after the mends. The last column names the rows of the table above whose tests repeat it.

| attack | before | after | row |
|---|---|---|---|
| `env.task: torch.distributed.run:main` in a run's configuration | executed | one line, exit 3 | 27 |
| the same with `pytest:main` | executed | one line, exit 3 | 27 |
| the same with `http.server:test` | opened a port | one line, exit 3 | 27 |
| `gym:evil_module/evil_module:Env`, also behind `distract:` | imported | one line, exit 3 | 27 |
| `gym:plug/Env` without a version, from an installed package | imported | needs trust | 27 |
| an id whose environment gives vectors only, for a run of pictures | AttributeError | needs trust | 27 |
| 500 bytes of YAML merge keys | hung | exit 4 | 30 |
| `signal.py` and 16 more names of modules in a run that is the working directory, with `--envs 2` | executed | not imported | 27 |
| `ctypes.py` there, and a DeepMind Control task (probe of the renderer) | executed | not imported | 27 |
| `ctypes.py` there, and `gym:InvertedPendulum-v5` (the child of GLFW) | executed | not imported | 27 |
| `libglfw.so` there | not loaded | not loaded | |
| `matplotlibrc` there, with a module as backend | not imported | not imported | 27 |
| `matplotlibrc` there, with `text.usetex` | obeyed | not read | 27 |
| `./wm doctor` in a run with `worldmodel.py` and `json.py` | executed | not imported | 27 |
| `./wm test` in a run with a module of pytest's | executed | the tests run in the checkout | |
| `goal.image: /etc/shadow`, `/dev/zero` | exit 2 | exit 2 | |
| `goal.image` is an EPS file | Ghostscript executed it | exit 2 | 27 |
| `goal.image` is a pipe | hung | exit 4 | 29 |
| task names with spaces, line breaks, `GYM:`, `dmc:../x` | refused | refused | 31 |
| script tags in names, metrics and configuration, then `report.html` | text | text | |
| pipes as `status.json`, `*.tmp` and `worst.gif` | hung | one line | 29 |
| pipes as configuration, logs and checkpoints' files | no hang | no hang | 29 |
| play: a page of another name (DNS rebinding), a foreign Origin | 403 | 403 | 32 |
| play: a wrong token, or none | 403 | 403 | 32 |
| play: paths that leave the page's folder | 404 | 404 | 32 |
| play: forms of other pages (CSRF) | 415, 404 | 415, 404 | 32 |
| play: deep JSON, NaN, two lengths, chunks, 500 headers | 4xx | 4xx | 32 |
| play: the token in the Referer of an image | not sent | not sent | |
| infinite frames and terminal sequences in a manifest | exit 4 | exit 4 | 15, 31 |
| pictures of 16,384^3 numbers, 2^20 actions | exit 4 | exit 4 | 15 |
| an observation named `../../../tmp` | exit 4 | exit 4 | 15 |
| a replay of objects, of `../../etc/passwd`, of 2^53 rows, of a generator `os.system` | exit 4 | exit 4 | 15 |
| `model.units: 1e9` | exit 2 | exit 2 | 21 |
| `replay.capacity_gb: 1e300` and other huge numbers | harmless | harmless | 17 |
| `stoch: 2^62`, `horizon: 9e18` | RuntimeError, exit 1 | refused as out of range | 17 |
| `layers: 4000000` | hung | refused as out of range | 17 |

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
  exceptions are caught, `sys.exit` and `os._exit` too, and what it changes of the process is
  undone after each call: working directory, signal handlers, `sys.stdout`, warnings, NumPy's error
  handling, torch's seed, threads, dtype and gradients. But a hanging environment hangs the run,
  and a crash ends it. With
  `env.num 2` or more every collecting environment runs in its own supervised process. Evaluation
  has no such option (`log.eval 0` leaves only the closing evaluation). `kill -9` ends a hanging
  run, and the same command resumes it from the last checkpoint.
- In the first hundredth of a second Python itself starts: SIGINT shows Python's traceback then,
  and other signals end the process without a line.
- `worldmodel/system/fault_injection.py` names every sub-step of a save at which a fault can be
  injected.

For twenty times as many fuzz inputs, twenty times as many sets of stops, and a soak of one minute
(CI: half a minute):

```
WM_FUZZ=20 pytest tests/fuzz
WM_RESUMES=20 pytest tests/faults/test_exact_resume.py
WM_SOAK=60 pytest tests/faults/test_soak.py
```
"""


def parse_rows(text: str) -> set[int]:
    """Read '27-39,9' as a set of rows."""
    rows = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        rows |= set(range(int(first), int(last or first) + 1))
    return rows


def run_fault_tests(record: Path, rows: set[int], repeat: int) -> int:
    """Run the fault tests of these rows, and rewrite their lines in the record; return 1 if any
    test failed.

    All other lines of the record stay.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    before = read_lines(record) if record.exists() else []
    kept = [line for line in before if line.get("row") not in rows]
    runs: list[dict] = []
    good = True
    for number in range(1, repeat + 1):
        print(f"repetition {number} of {repeat}", flush=True)
        found, code = run_once(rows)
        good = good and code == 0
        for line in found:
            if not line["passed"]:
                print(f"FAILED in repetition {number}: {line['test']} ({line['case']})")
        runs += found
        passed, failed = add_up(runs, number)
        text = "".join(json.dumps(line) + "\n" for line in kept + passed)
        record.write_text(text)  # after each repetition, so that a stop keeps those before it
    for case, reason in failed.items():
        print(f"not in the table: {case}: {reason}")
    for row in sorted(rows - {line["row"] for line in runs}):
        print(f"no test of row {row} has run")
    return int(bool(failed) or not good)


def run_once(rows: set[int]) -> tuple[list[dict], int]:
    """Run the fault tests of these rows once; return a line for each of them, passed or not, and
    pytest's exit code.
    """
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if rows & {int(x) for x in re.findall(r"mark\.fault\(\s*(\d+)", path.read_text())}
    ]
    if not files:
        return [], 1
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.jsonl")
        found.touch()
        env = {**os.environ, "WM_SURVIVED": str(found), "WM_ROWS": json.dumps(sorted(rows))}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "fault", *files]
        code = subprocess.run(command, cwd=ROOT, env=env).returncode
        return read_lines(found), code


def add_up(lines: list[dict], repeat: int) -> tuple[list[dict], dict[str, str]]:
    """Make one line of each case that passed in all repetitions; name the others and say why."""
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        case = (line["row"], line["injected"], line["test"], line["case"])
        groups.setdefault(case, []).append(line)
    passed, failed = [], {}
    for (_, _, test, case), found in groups.items():
        count = sum(line["passed"] for line in found)
        if count < len(found):
            failed[f"{test} ({case})"] = f"failed {len(found) - count} of {len(found)} times"
        elif count < repeat:
            failed[f"{test} ({case})"] = f"ran {count} of {repeat} times"
        else:
            line = {**found[-1], "times": sum(line.get("times", 1) for line in found)}
            if any("lost" in line for line in found):
                line["lost"] = max(line["lost"] for line in found if "lost" in line)
            del line["passed"]
            passed.append(line)
    return passed, failed


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    missing = [str(row) for row in ROWS if row not in seen]
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
    parser.add_argument("--run", action="store_true", help="run the fault tests first")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each N times (1)")
    parser.add_argument("--rows", type=parse_rows, default=set(ROWS), help="27-39,9; or all")
    for kind in ("soak", "saves"):
        parser.add_argument(f"--{kind}", type=Path, help=f"the output of benchmarks/{kind}.py")
    parser.add_argument("--on", default="", help="the machine on which --soak and --saves ran")
    args = parser.parse_args(argv)
    code = run_fault_tests(args.record, args.rows, args.repeat) if args.run else 0
    with args.record.open("a") as file:
        for kind in ("soak", "saves"):
            if path := getattr(args, kind):
                file.write(
                    json.dumps({"kind": kind, "on": args.on, **json.loads(path.read_text())})
                    + "\n"
                )
    PAGE.write_text(make_page(read_lines(args.record)))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
