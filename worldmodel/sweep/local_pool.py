"""Trainings of a sweep side by side on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from worldmodel.sweep.grid import Cell
from worldmodel.sweep.progress import STOPPED, SweepProgress
from worldmodel.system.console import say
from worldmodel.system.cpu_cores import count_cores
from worldmodel.system.files import open_input
from worldmodel.system.process_start import list_stop_signals

ROOT = Path(__file__).resolve().parents[2]  # what `import worldmodel` is found in
# Python puts the current folder first, from which nothing may be imported.
TRAIN = f"""import sys
sys.path[:1] = [{str(ROOT)!r}]
from worldmodel.command_line.main import run
run()
"""


def make_command(cell: Cell) -> list[str]:
    return [sys.executable, "-c", TRAIN, "train", *cell.words]


def divide_threads(jobs: int) -> dict[str, str]:
    """The environment of each training: an equal share of the cores, unless the user chose."""
    return {"OMP_NUM_THREADS": str(max(1, count_cores() // jobs)), **os.environ}


class LocalPool:
    """At most `jobs` trainings at a time. A signal stops all of them, each with its save."""

    def __init__(self, jobs: int, progress: SweepProgress):
        self.jobs, self.progress = jobs, progress
        self.running: set[subprocess.Popen] = set()
        self.is_stopping = False

    def train(self, cells: Sequence[Cell]) -> None:
        """Train all cells, or as many as there are before a signal."""
        self.progress.logs.mkdir(parents=True, exist_ok=True)
        environment = divide_threads(self.jobs)
        with forward_signals(self._stop), ThreadPoolExecutor(self.jobs) as threads:
            futures = {threads.submit(self._train_one, cell, environment): cell for cell in cells}
            for future in as_completed(futures):
                code = future.result()
                if code is not None:
                    self.progress.record(futures[future], code)

    def _train_one(self, cell: Cell, environment: Mapping[str, str]) -> int | None:
        """Train one cell and return its exit code; None if a stop came first."""
        if self.is_stopping:
            return None
        with open(self.progress.log_file(cell), "ab", opener=open_input) as log:
            process = subprocess.Popen(
                make_command(cell),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C reaches it once, by `_stop`
            )
        self.running.add(process)
        if self.is_stopping:  # meanwhile
            process.terminate()
        code = process.wait()
        self.running.discard(process)
        was_stopped = self.is_stopping and code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return STOPPED if was_stopped else code if code >= 0 else 128 - code

    def _stop(self) -> None:
        """Ask every training to save and end; a second time ends them at once."""
        if not self.is_stopping:
            say("stopping: the trainings save; the same command goes on from there")
        self.is_stopping = True
        for process in list(self.running):
            process.terminate()


@contextlib.contextmanager
def forward_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at every signal that asks for a stop."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in list_stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
