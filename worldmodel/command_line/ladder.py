"""`wm ladder`: trains every rung of the ladder, measures the lessons, and writes their page."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worldmodel.programs.eval_options import PlainFormatter, parse_positive, split_dotted
from worldmodel.programs.option_parser import OptionParser
from worldmodel.system.console import PROGRAM

if TYPE_CHECKING:
    from worldmodel.ladder.lesson import Lesson, Outcome
    from worldmodel.ladder.trainings import Study
    from worldmodel.sweep.grid import Cell

DESCRIPTION = """Train the rungs of model-based RL and show the lesson of each on one page.

The rungs are presets (v05, v10, v15, ...), from random data and open-loop plans up to short
rollouts with off-policy learning. Each is an ordinary run. Ctrl-C saves and stops; the same
command resumes and redoes nothing. By default it takes up to 45 minutes on two idle cores.
"""
EXAMPLE = f"""example:
  {PROGRAM} ladder --fast                   # five minutes, for a class
  {PROGRAM} ladder pendulum --seeds 0..2 --jobs 2
"""


def make_parser() -> OptionParser:
    parser = OptionParser(
        prog=f"{PROGRAM} ladder",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        usage=f"{PROGRAM} ladder [TASK] [options] [--section.key value ...]",
        formatter_class=PlainFormatter,
    )
    add = parser.add_argument
    add("task", nargs="?", default="pendulum", metavar="TASK", help="the task (pendulum)")
    add("--seeds", metavar="0..4", help="seeds, as in 0..4 or 0,3,7 (0..2; with --fast 0)")
    add("--obs", choices=("state", "pixels"), default="state", help="what is observed (state)")
    add("--fast", action="store_true", help="fewer rungs, seeds and frames")
    add("--frames", type=parse_positive, metavar="N", help="frames of every rung")
    add("--jobs", type=parse_positive, default=2, help="trainings at a time (2)")
    add("--out", type=Path, metavar="DIR", help="for page, results and logs (ROOT/ladder/TASK)")
    add("--root", default="runs", metavar="DIR", help="where runs are kept (runs)")
    return parser


def main(argv: list[str]) -> int:
    own, dotted = split_dotted(argv)
    args = make_parser().parse_words(own)  # help needs none of the following imports
    from worldmodel import envs
    from worldmodel.errors import UsageError
    from worldmodel.ladder.trainings import Study, make_ladder
    from worldmodel.sweep.grid import parse_seeds

    try:
        study = Study(
            args.task,
            parse_seeds(args.seeds or ("0" if args.fast else "0..2")),
            args.obs,
            args.fast,
            args.root,
            args.frames,
            tuple(dotted),
        )
        cells = make_ladder(study, envs.check_name)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    command = shlex.join([*PROGRAM.split(), "ladder", *argv])
    return run_command(lambda: climb(args, study, cells, command))


def climb(
    args: argparse.Namespace, study: Study, cells: dict[str, list[Cell]], command: str
) -> int:
    """Train what is not done, measure, and write the page; the exit code."""
    from worldmodel import envs
    from worldmodel.ladder.lessons.catalog import LESSONS
    from worldmodel.ladder.material import Material
    from worldmodel.ladder.measurements import Failures, measure_lesson
    from worldmodel.ladder.page import Page, write_page
    from worldmodel.ladder.remaining_time import LadderProgress, estimate_seconds
    from worldmodel.ladder.statements import state_absence
    from worldmodel.sweep.local_pool import LocalPool, forward_signals
    from worldmodel.sweep.progress import STOPPED, is_done
    from worldmodel.system.console import format_duration, say

    names = [study.task.replace("/", "_"), *["pixels"] * (study.obs == "pixels")]
    out = args.out or Path(args.root) / "ladder" / "-".join([*names, *["fast"] * study.fast])
    progress = LadderProgress(order_cells(cells), out / "logs")
    pending = progress.list_pending()
    if pending:
        seconds = sum(estimate_seconds(cell.config) for cell in pending) / args.jobs
        say(
            f"{len(pending)} trainings are left, {args.jobs} at a time: about "
            f"{format_duration(seconds)} on as many idle cores"
        )
        pool = LocalPool(args.jobs, progress)
        pool.train(pending)
        if pool.is_stopping:
            done = sum(code == 0 for code in progress.codes.values())
            say(
                f"stopped with {done} of {len(progress.cells)} trainings done, and no lesson is "
                f"measured; to go on: {command}"
            )
            return STOPPED
    runs = {
        label: paths
        for label, own in cells.items()
        if len(paths := [cell.run.path for cell in own if is_done(cell)]) == len(own)
    }
    material, failures = Material(study, runs, envs), Failures()
    found: dict[Lesson, Outcome] = {}
    is_stopped = False
    try:
        with forward_signals(raise_interrupt):
            for number, lesson in enumerate(LESSONS, 1):
                say(f"lesson {number} of {len(LESSONS)}: {lesson.title}")
                found[lesson] = outcome = measure_lesson(lesson, material, out, failures)
                if isinstance(outcome, str):
                    say(f"  {outcome}")
    except KeyboardInterrupt:
        is_stopped = True
        say(f"stopped with {len(found)} of {len(LESSONS)} lessons measured; to go on: {command}")
    for lesson in LESSONS:
        found.setdefault(lesson, state_absence("the command was stopped before"))
    page = write_page(out / "ladder.html", Page(study, command, found, progress.failed))
    say(f"the lessons are in {page}")
    return STOPPED if is_stopped else progress.exit_code or failures.exit_code


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def order_cells(cells: dict[str, list[Cell]]) -> list[Cell]:
    """All trainings of the first seed, then of the next, so that a stop leaves whole seeds."""
    columns = itertools.zip_longest(*cells.values())
    return [cell for column in columns for cell in column if cell is not None]
