"""Compare the speed of two source trees: interleaved pairs, 95 % interval of each ratio.

python benchmarks/compare_trees.py BEFORE AFTER [--pairs 15] [--calls 3] [--out FILE] GROUP ...

Each tree runs its own benchmarks/run.py in a process of its own that stays alive; the two take
turns, and change who goes first from pair to pair. Within a pair, a tree's figure is the median of
`--calls` calls, or of more if they take less than a second. A ratio is AFTER / BEFORE of one pair:
below 1 is faster for seconds. The interval is a bootstrap of the median ratio over pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Runs inside a tree: one group name a line in, its figures as one line of JSON out.
WORKER = """
import functools, json, os, statistics, sys, time
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path.insert(0, os.getcwd())
from benchmarks import compute, process, run
calls = int(sys.argv[1])

def measure_median(function, repeats, warm=2):
    function()
    times = []
    while len(times) < repeats and (len(times) < calls or sum(times) < 1):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)

for name in ("measure_seconds", "median_seconds"):  # its name now and before
    if hasattr(compute, name):
        setattr(compute, name, measure_median)
startup = getattr(process, "measure_startup", None) or process.startup
startup.__defaults__ = (min(calls, *startup.__defaults__),)
short_run = "time_short_run" if hasattr(process, "time_short_run") else "short_run"
time_short_run = functools.cache(getattr(process, short_run))  # one a pair instead of three
setattr(process, short_run, time_short_run)
groups = run.groups()
for line in sys.stdin:
    time_short_run.cache_clear()
    names = [g for g in groups if run.matches(g, line.strip())]
    found = {}
    for name in names:
        found.update(groups[name]())
    answers.write(json.dumps(found) + "\\n")
    answers.flush()
"""


class Tree:
    """A worker process that measures one source tree."""

    def __init__(self, path: Path, python: str, calls: int):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [python, "-c", WORKER, str(calls)], cwd=path, stdin=pipe, stdout=pipe, text=True
        )

    def measure(self, group: str) -> dict[str, dict[str, Any]]:
        """Measure the figures of one group of benchmarks."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(group + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmark {group} ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compute_median_interval(ratios: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Return the median ratio and the bounds of its 95 % bootstrap interval."""
    values = np.array(ratios)
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def compare(before: Tree, after: Tree, groups: list[str], pairs: int) -> dict[str, list[float]]:
    """Measure both trees in pairs; return the ratios of each figure, one per pair."""
    ratios: dict[str, list[float]] = {}
    for pair in range(pairs):
        for group in groups:
            order = [before, after] if pair % 2 == 0 else [after, before]
            found = {id(tree): tree.measure(group) for tree in order}
            old, new = found[id(before)], found[id(after)]
            for name in old.keys() & new.keys():
                if old[name]["value"]:
                    ratios.setdefault(name, []).append(new[name]["value"] / old[name]["value"])
        sys.stderr.write(f"pair {pair + 1} of {pairs}\n")
    return ratios


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("groups", nargs="+", metavar="GROUP")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    paths = [args.before.resolve(), args.after.resolve()]
    trees = [Tree(path, sys.executable, args.calls) for path in paths]
    try:
        ratios = compare(*trees, args.groups, args.pairs)
    finally:
        for tree in trees:
            tree.close()
    rows = {name: compute_median_interval(values) for name, values in sorted(ratios.items())}
    sys.stdout.write(f"{'figure':<40}{'ratio':>8}{'low':>8}{'high':>8}{'pairs':>7}\n")
    for name, (median, low, high) in rows.items():
        pairs = len(ratios[name])
        sys.stdout.write(f"{name:<40}{median:>8.3f}{low:>8.3f}{high:>8.3f}{pairs:>7}\n")
    if args.out:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
        args.out.write_text(json.dumps({"machine": machine, "ratios": ratios}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
