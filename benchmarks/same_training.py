"""Prove that a change of the source tree changed no training: six short runs, hashed part by part.

python benchmarks/same_training.py [--tree DIR] [--only SETUP ...] [--out FILE] [--against FILE]
python benchmarks/same_training.py --compare BEFORE.json AFTER.json

Each setup runs the tree's own train.py as a program: 20 updates after the prefill, 40 more while
the agent collects. hash_run.py reads the run directory without the tree's code. renamed.json
translates old names whenever results are compared, so result files outlive new rows of it.
Results are comparable on one kind of CPU only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.hash_run import (  # noqa: E402
    TABLE,
    Rows,
    RunError,
    flatten,
    hash_rows,
    hash_run,
    hash_value,
    read_yaml,
    translate_name,
    translate_parts,
)

Result = Mapping[str, Any]  # also of renamed.json

# Names of keys and presets are those of the first tree; run_setup translates them.
SHORT = {
    "run.name": "same",
    "run.device": "cpu",
    "run.threads": 1,
    "train.pretrain": 20,
    "replay.batch": 3,
    "replay.length": 12,
    "log.tensorboard": "false",
    "log.episodes": 1,
    "log.final_episodes": 1,
    "log.checkpoint": 10**6,
}
STARTS = {"imag.starts": 20}
COPIES = {**STARTS, "model.backdrop": 40, "critic.every": 25, "env.time_limit": 240}
PLANS = {"planner.candidates": 30, "planner.iterations": 3}
BALANCE = {**PLANS, "env.render": "ray", "env.time_limit": 320}
COUNTER = {"env.task": "counter", "imag.horizon": 8, "optim.warmup": 30, "replay.batch": 2}


@dataclass(frozen=True)
class Setup:
    """Presets of a run, frames of its prefill and in all, and what else makes it short."""

    presets: tuple[str, ...]
    prefill: int
    frames: int  # as many that 40 updates follow the pretraining at the presets' own ratio
    changes: Mapping[str, Any]


SETUPS = {
    "quickstart": Setup(("quickstart",), 160, 800, COPIES),
    "pendulum": Setup(("pendulum",), 160, 294, {**PLANS, "env.time_limit": 40}),
    "balance": Setup(("balance",), 320, 960, BALANCE),
    "swingup": Setup(("laptop", "swingup"), 160, 392, {**STARTS, "env.time_limit": 200}),
    # More rows than a replay chunk holds, so that a packed one is among them.
    "catcher": Setup(("laptop", "pointmass", "catcher"), 400, 600, STARTS),
    "dreamer3": Setup(("small", "dreamer3"), 80, 240, COUNTER),
}


def run_setup(tree: Path, setup: Setup, root: Path, seed: int, precision: str) -> Path:
    """Train by the tree's own program; return the run directory."""
    wanted = {
        **SHORT,
        "run.root": root,
        "run.seed": seed,
        "run.precision": precision,
        "run.frames": setup.frames,
        "train.prefill": setup.prefill,
        "log.every": setup.frames // 5,
        "log.eval": (setup.prefill + setup.frames) // 2,
        **setup.changes,
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMP_", "MKL_"))}
    words = [sys.executable, str(tree / "train.py"), *name_presets(tree, setup.presets)]
    done = subprocess.run(
        words + name_overrides(tree, wanted),
        cwd=root,
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr[-2000:]
        raise RunError(f"{' '.join(done.args)} ended with {done.returncode}:\n{said}")
    return next(root.rglob("checkpoints")).parent


def name_presets(tree: Path, presets: tuple[str, ...]) -> list[str]:
    """Return the presets' names in this tree."""
    known = {path.stem for path in (tree / "configs").rglob("*.yaml")}
    renamed = TABLE["renamed"]["presets"]
    return [name if name in known else translate_name(name, renamed) for name in presets]


def name_overrides(tree: Path, wanted: Mapping[str, Any]) -> list[str]:
    """Return command-line words that set these keys, by their names in this tree."""
    known = flatten(read_yaml(tree / "configs" / "defaults.yaml"))
    renamed = TABLE["renamed"]["config"]
    names = {key: key if key in known else translate_name(key, renamed) for key in wanted}
    return [f"--{names[key]}={value}" for key, value in wanted.items()]


def run_setups(tree: Path, names: list[str], seed: int, precision: str) -> Result:
    """Run setups one after the other; return each part's hash and the rows that it is made of."""
    about = {"commit": find_commit(tree), "seed": seed, "precision": precision}
    setups, rows = {}, {}
    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as root:
            parts = hash_run(run_setup(tree, SETUPS[name], Path(root), seed, precision))
        # Rows keep this tree's names, so that a later table can translate them.
        rows[name] = translate_parts(parts, {**TABLE, "renamed": {}})
        setups[name] = {part: hash_rows(part, r) for part, r in translate_parts(parts).items()}
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return {**about, "machine": describe_machine(), "setups": setups, "rows": rows}


def find_commit(tree: Path) -> str:
    """Return the tree's commit, with -dirty where tracked files differ from it."""
    words = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(["git", "-C", str(tree), *words], capture_output=True, text=True)
    return done.stdout.strip() or "no git checkout"


def describe_machine() -> dict[str, str]:
    """Describe what a result depends on besides the tree."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "flags": hash_value(sorted(cpu.get("flags", "").split())),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "numpy", "mujoco")},
    }


def compare_results(a: Result, b: Result, table: Result = TABLE) -> tuple[list[str], bool]:
    """Return a line for each part, and whether all that both results hold is equal."""
    differ = [key for key in ("seed", "precision", "machine") if a[key] != b[key]]
    lines = [f"note: {key} differs: {a[key]} and {b[key]}" for key in differ]
    alone = sorted(a["rows"].keys() ^ b["rows"].keys())
    lines += [f"note: only one result has {name}" for name in alone]
    shared = [name for name in a["rows"] if name in b["rows"]]
    same = bool(shared)
    for name in shared:
        left, right = (translate_parts(result["rows"][name], table) for result in (a, b))
        for part in {**left, **right}:
            one, two = left.get(part, {}), right.get(part, {})
            hashes = hash_rows(part, one), hash_rows(part, two)
            equal = hashes[0] == hashes[1]
            same &= equal
            words = "equal" if equal else f"DIFFERENT {describe_difference(part, one, two)}"
            lines.append(f"{name:<10} {part:<10} {hashes[0][:12]} {hashes[1][:12]} {words}")
    return lines, same


def describe_difference(part: str, a: Rows, b: Rows) -> str:
    """Name the first row that differs or that one side lacks, and count them all."""
    if part == "optimiser":
        differ = [k for k in a if a[k] not in b.values()]
        differ += [k for k in b if b[k] not in a.values() and k not in differ]
    else:
        differ = sorted(k for k in {**a, **b} if a.get(k) != b.get(k))
    if not differ:
        return "in how often equal tensors occur"
    first = differ[0]
    words = f"in {len(differ)} of {len({**a, **b})}, first {first}"
    if first in a and first in b:
        return words
    here, there, side = (a, b, "before") if first in a else (b, a, "after")
    twins = [k for k in there if there[k] == here[first] and k not in here]
    hint = f"; {twins[0]} holds the same, is it a rename?" if twins else ""
    return f"{words} (only {side}{hint})"


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    names = ", ".join(SETUPS)
    parser = argparse.ArgumentParser(description="Hash six short trainings of a source tree.")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout to run; default: this")
    every = {"choices": SETUPS, "default": list(SETUPS), "metavar": "SETUP", "help": names}
    parser.add_argument("--only", nargs="+", **every)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--out", type=Path, help="write the result here")
    parser.add_argument("--against", type=Path, help="compare with this earlier result")
    parser.add_argument("--compare", type=Path, nargs=2, help="compare two results, run nothing")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Exit code 0: equal, or nothing to compare with; 1: different; 2: a training failed."""
    o = parse_arguments(argv)
    if o.compare:
        before, after = (json.loads(path.read_text()) for path in o.compare)
    else:
        try:
            after = run_setups(o.tree.resolve(), o.only, o.seed, o.precision)
        except RunError as error:
            print(error, file=sys.stderr)
            return 2
        if o.out:
            o.out.write_text(json.dumps(after, indent=1) + "\n")
        if not o.against:
            return 0
        before = json.loads(o.against.read_text())
    lines, same = compare_results(before, after)
    print(*lines, sep="\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
