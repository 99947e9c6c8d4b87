"""`wm sweep`: a grid of trainings, and the table of their scores."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worldmodel.config.key_reference import SHORT_NAMES
from worldmodel.programs.eval_options import PlainFormatter, parse_positive, split_dotted
from worldmodel.programs.option_parser import OptionParser
from worldmodel.system.console import PROGRAM

if TYPE_CHECKING:
    from worldmodel.sweep.grid import Cell

DESCRIPTION = """Train a grid of runs: every task, seed and value of the keys that vary.

Each is an ordinary run, in runs/<task>/<name>/seed<k>; values that vary become part of its name.
The same command resumes a sweep that was stopped, and skips runs that are done. At the end a table
and a plot compare the variants over their seeds.
"""
EXAMPLE = f"""example:
  {PROGRAM} sweep planet --tasks dmc:cartpole_balance,dmc:reacher_easy --seeds 0..4 \\
      --set loss.overshooting=1,4 --jobs 2 --run.frames 50000
"""


PASSED_ON = ("frames", "name")  # short names that every training is given


def make_parser() -> OptionParser:
    parser = OptionParser(
        prog=f"{PROGRAM} sweep",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        usage=f"{PROGRAM} sweep PRESET [PRESET ...] [options] [--section.key value ...]",
        formatter_class=PlainFormatter,
    )
    add = parser.add_argument
    add("presets", nargs="*", help=argparse.SUPPRESS)
    add("--tasks", metavar="A,B", help="values of env.task (the preset's own)")
    add("--seeds", default="0..2", metavar="0..4", help="seeds, as in 0..4 or 0,3,7 (0..2)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="values of a key; several --set make a grid",
    )
    add("--jobs", type=parse_positive, default=1, help="trainings at a time (1)")
    add(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="submit to Slurm, with options such as partition=gpu,time=60 (minutes)",
    )
    add("--table", action="store_true", help="train nothing, and show what is done")
    add("--out", type=Path, metavar="DIR", help="for table, plot and logs (runs/sweeps/<name>)")
    for name in PASSED_ON:
        add(f"--{name}", metavar="VALUE", help=f"{SHORT_NAMES[name]}, as in {PROGRAM} train")
    return parser


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the words that every training is given: presets and --section.key value."""
    parser = make_parser()
    own, dotted = split_dotted(argv)
    args = parser.parse_words(own)
    if all("=" in word for word in args.presets):
        parser.error(
            f"name a preset, as in {parser.prog} quickstart; {PROGRAM} presets lists them"
        )
    given = [f"--{name}={vars(args)[name]}" for name in PASSED_ON if vars(args)[name] is not None]
    return args, [*args.presets, *dotted, *given]


def main(argv: list[str]) -> int:
    args, words = parse_arguments(argv)  # help needs none of the following imports
    from worldmodel import envs
    from worldmodel.config import loading
    from worldmodel.errors import UsageError
    from worldmodel.sweep import grid

    try:
        cells = grid.make_cells(
            words,
            [task.strip() for task in args.tasks.split(",")] if args.tasks else [],
            grid.parse_seeds(args.seeds),
            [grid.parse_values(text) for text in args.set],
            envs.check_name,
            envs.describe_task,
        )
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    base = loading.parse(words).run
    out = args.out or Path(base.root) / "sweeps" / base.name
    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: sweep(args, cells, out))


def sweep(args: argparse.Namespace, cells: list[Cell], out: Path) -> int:
    """Train what is not done, then show the table; the exit code."""
    from worldmodel.sweep.local_pool import LocalPool
    from worldmodel.sweep.progress import SweepProgress, write_table
    from worldmodel.sweep.slurm_jobs import parse_slurm_options, train_on_slurm
    from worldmodel.system.console import say

    code = 0
    if not args.table:
        options = parse_slurm_options(args.slurm) if args.slurm is not None else None
        progress = SweepProgress(cells, out / "logs")
        pending = progress.list_pending()
        if pending and options is not None:
            train_on_slurm(pending, args.jobs, options, progress)
        elif pending:
            LocalPool(args.jobs, progress).train(pending)
        code = progress.exit_code
    if not write_table(cells, out):
        say("no training of this sweep is done")
        return code or (4 if args.table else 0)
    return code
