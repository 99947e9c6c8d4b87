"""Run benchmarks on this machine and print each figure beside its baseline.

python benchmarks/run.py [NAME ...] [--json]

NAME is a full name or selects groups by prefix (roofline update objectives plan policy ensemble
replay render collect overlap distract builtin play startup memory).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RENDER_TASKS = ("cartpole_balance", "walker_walk", "cheetah_run", "ball_in_cup_catch")


def groups():
    """Return the benchmarks by prefix; each imports what it needs when it is called."""

    def compute(name, *args):
        from benchmarks import compute

        return getattr(compute, name)(*args)

    def ensembles(name):
        from benchmarks import ensembles

        return getattr(ensembles, name)()

    def classics(name):
        from benchmarks import classics

        return getattr(classics, name)()

    def replay():
        from benchmarks import replay

        return replay.measure()

    def render():
        from benchmarks import render

        return render.measure(RENDER_TASKS)

    def process(name):
        from benchmarks import process

        return getattr(process, name)()

    def collect(name):
        from benchmarks import collect

        return getattr(collect, name)()

    def play():
        from benchmarks import play

        return play.measure()

    def distract():
        from benchmarks import render

        return render.measure_distract()

    def builtin():
        from benchmarks import render

        return render.measure_builtin_tasks()

    return {
        "roofline": lambda: compute("measure_roofline"),
        "update.small": lambda: compute("measure_update", "small"),
        "update.12m": lambda: compute("measure_update", "12m", 10),
        "objectives": lambda: compute("measure_objectives"),
        "plan": lambda: compute("measure_plan"),
        "policy": lambda: compute("measure_policy"),
        "ensemble.update": lambda: ensembles("measure_updates"),
        "ensemble.plan": lambda: ensembles("measure_plans"),
        "classics.update": lambda: classics("measure_updates"),
        "classics.plan": lambda: classics("measure_plans"),
        "replay": replay,
        "render": render,
        "collect": lambda: collect("measure"),
        "overlap": lambda: collect("measure_overlap"),
        "startup": lambda: process("measure_startup"),
        "memory": lambda: process("measure_memory"),
        "distract": distract,
        "builtin": builtin,
        "play": play,
    }


def format_table(results: dict) -> str:
    lines = [f"{'name':<34}{'value':>12} {'unit':<9}{'baseline':>12}{'ratio':>8}"]
    for name, r in results.items():
        base = r["baseline"]
        ratio = f"{r['value'] / base:8.2f}" if base else ""
        shown = f"{base:12.4g}" if base else f"{'':>12}"
        lines.append(f"{name:<34}{r['value']:>12.4g} {r['unit']:<9}{shown}{ratio}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure this machine.")
    parser.add_argument("names", nargs="*", help="names or prefixes; all where none is given")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    known = groups()
    wanted = {
        k: f for k, f in known.items() if not args.names or any(matches(k, n) for n in args.names)
    }
    unknown = [n for n in args.names if not any(matches(k, n) for k in known)]
    if unknown:
        sys.stderr.write(
            f"no benchmark called {', '.join(unknown)}; there are {', '.join(known)}\n"
        )
        return 2
    from worldmodel.system import runtime

    runtime.keep_freed_memory()
    results: dict = {}
    for function in wanted.values():
        results.update(function())
    if args.names:
        results = {
            k: r
            for k, r in results.items()
            if any(k.startswith(n) or n.startswith(k) for n in args.names)
        }
    print(json.dumps(results, indent=1) if args.json else format_table(results))
    return 0


def matches(group: str, name: str) -> bool:
    return group.startswith(name) or name.startswith(group)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
