"""Reports each training of a sweep in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.errors import WorldModelError, escape_control, exit_code_of
from worldmodel.evaluation.returns.seed_statistics import write_aggregate
from worldmodel.sweep.grid import LONGEST_NAME, Cell, shorten_name
from worldmodel.system.console import say
from worldmodel.system.files import read_small_file, to_finite

STOPPED = 75  # the exit code of a training that was stopped and can be resumed
LONGEST_LOG = 1 << 26
EXIT_LINES = {0: "done", STOPPED: "stopped"}


class SweepProgress:
    """Counts the trainings that ended, says a line for each, and keeps their exit codes."""

    def __init__(self, cells: Sequence[Cell], logs: Path):
        self.cells, self.logs = cells, logs
        self.codes: dict[Cell, int] = {}
        self.failed: list[str] = []  # a line for each training that failed

    def list_pending(self) -> list[Cell]:
        """The trainings that are not done; one that cannot be resumed has failed."""
        pending = []
        for cell in self.cells:
            try:
                if cell.run.is_trained(cell.config):
                    self.codes[cell] = 0
                else:
                    pending.append(cell)
            except WorldModelError as error:
                self.record(cell, exit_code_of(error) or 1, str(error))
        if self.codes:
            say(f"{sum(code == 0 for code in self.codes.values())} of {len(self.cells)} are done")
        return pending

    def log_file(self, cell: Cell) -> Path:
        """Where what a training prints is kept."""
        name = "-".join(cell.run.path.parts[-3:])
        return self.logs / f"{shorten_name(name, 2 * LONGEST_NAME)}.log"

    def record(self, cell: Cell, code: int, reason: str = "") -> None:
        self.codes[cell] = code
        said = EXIT_LINES.get(code, f"failed with exit code {code}")
        if code == 0 and (result := read_result(cell)):
            said += f", score {result['eval/score']:.1f}"
        elif code not in EXIT_LINES:
            said += f": {reason or self._read_last_line(cell)}"
            self.failed.append(f"{cell.title}: {said}")
        say(f"[{len(self.codes)}/{len(self.cells)}] {cell.title}: {said}{self.describe_left()}")

    def describe_left(self) -> str:
        """What a line adds about the trainings that are left."""
        return ""

    def _read_last_line(self, cell: Cell) -> str:
        file = self.log_file(cell)
        lines = read_small_file(file, LONGEST_LOG).decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return f"{escape_control(last)[:300]} (all of it is in {file})"

    @property
    def exit_code(self) -> int:
        """0 if all are done, 75 if some were stopped, otherwise that of the first failure."""
        failed = [code for code in self.codes.values() if code not in EXIT_LINES]
        unfinished = len(self.codes) < len(self.cells) or STOPPED in self.codes.values()
        return STOPPED if unfinished else next(iter(failed), 0)


def read_result(cell: Cell) -> dict[str, Any] | None:
    """The closing evaluation of a training, as seed_statistics takes it; None if there is none."""
    lines = read_json_lines(cell.run.path / "scores.jsonl")
    score = to_finite(lines[-1].get("eval/score")) if lines else None
    frames = to_finite(lines[-1].get("frames")) if lines else None
    if score is None or frames is None:
        return None
    return {
        "run": str(cell.run.path),
        "task": cell.config.env.task,
        "name": cell.config.run.name,
        "frames": int(frames),
        "eval/score": score,
        "scores": [score],
    }


def write_table(cells: Sequence[Cell], target: Path) -> bool:
    """Print and write the aggregates of all finished trainings; False if there are none."""
    found = [result for cell in cells if is_done(cell) and (result := read_result(cell))]
    if not found:
        return False
    say(f"{len(found)} of {len(cells)} trainings, mean return of the closing evaluation:")
    target.mkdir(parents=True, exist_ok=True)
    write_aggregate(found, target, seed=0)
    return True


def is_done(cell: Cell) -> bool:
    try:
        return cell.run.is_trained(cell.config)
    except WorldModelError:
        return False
