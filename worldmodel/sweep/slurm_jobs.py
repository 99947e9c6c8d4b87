"""Trainings of a sweep as jobs of Slurm, through submitit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.config.yaml_io import UNREADABLE, parse_yaml
from worldmodel.errors import RunError, UsageError
from worldmodel.sweep.grid import Cell
from worldmodel.sweep.local_pool import ROOT, forward_signals, make_command
from worldmodel.sweep.progress import SweepProgress
from worldmodel.system.console import say
from worldmodel.system.files import read_json, replace_file
from worldmodel.system.optional_packages import require_package

JOBS_FILE, MAX_JOBS_FILE = "jobs.json", 1 << 24
POLL_SECONDS, SAVE_SECONDS = 5, 60


class SlurmTraining:
    """What a job runs: a training, which saves and is queued again when its time is up."""

    def __init__(self, command: list[str]):
        self.command = command
        self.process: subprocess.Popen | None = None

    def __call__(self) -> int:
        # submitit's own signal reaches all processes of a job.
        self.process = subprocess.Popen(
            self.command, preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        )
        while True:  # a wait without end would hold a lock that `checkpoint` needs
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=1)

    def checkpoint(self) -> Any:
        """Called by submitit within a signal handler."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=SAVE_SECONDS)
        return DelayedSubmission(SlurmTraining(self.command))


class StopWaiting(Exception):
    """A signal has asked the sweep to end; its jobs continue."""


def parse_slurm_options(text: str) -> dict[str, Any]:
    """Options of sbatch as submitit names them: partition=gpu,time=60,mem=8GB."""
    options: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        try:
            options[key.strip()] = parse_yaml(value)
        except UNREADABLE:
            equals = ""
        if not equals or not key.strip():
            raise UsageError(f"--slurm {part!r}: give options as in partition=gpu,time=60")
    return options


def train_on_slurm(
    cells: Sequence[Cell], jobs: int, options: dict[str, Any], progress: SweepProgress
) -> None:
    """Submit the cells as one array of at most `jobs` at a time, and wait for them.

    Jobs of an earlier command that have not ended are waited for, not submitted again.
    """
    require_package("submitit", "--slurm")
    from submitit.helpers import as_completed

    jobs_file = progress.logs / JOBS_FILE
    progress.logs.mkdir(parents=True, exist_ok=True)
    known = read_job_ids(jobs_file)
    waiting = {cell: job for cell in cells if (job := find_job(progress.logs, known, cell))}
    new = [cell for cell in cells if cell not in waiting]
    if new:
        waiting |= dict(zip(new, submit(new, jobs, options, progress.logs), strict=True))
    ids = {str(cell.run.path): job.job_id for cell, job in waiting.items()}
    replace_file(jobs_file, json.dumps({**known, **ids}, indent=1) + "\n")
    say(f"{len(new)} jobs submitted to Slurm, {len(waiting) - len(new)} were there already")
    cell_of = {job.job_id: cell for cell, job in waiting.items()}

    def stop() -> None:
        raise StopWaiting

    try:
        with forward_signals(stop):
            for job in as_completed(list(waiting.values()), poll_frequency=POLL_SECONDS):
                error = job.exception()
                code = 1 if error is not None else job.result()
                code = code if code >= 0 else 128 - code
                reason = "" if error is None else " ".join(str(error).split())[:300]
                progress.record(cell_of[job.job_id], code, reason or f"see {job.paths.stderr}")
    except StopWaiting:
        ids_left = ", ".join(sorted({i.split("_")[0] for i in cell_of}))
        say(f"no longer waiting; jobs {ids_left} continue, and the same command waits again")


def submit(cells: Sequence[Cell], jobs: int, options: dict[str, Any], folder: Path) -> list[Any]:
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder)
        executor.update_parameters(
            **{
                "job_name": "worldmodel",
                "array_parallelism": jobs,
                "setup": [f"export PYTHONPATH={ROOT}${{PYTHONPATH:+{os.pathsep}$PYTHONPATH}}"],
                **options,
            }
        )
    except RuntimeError as error:  # there is no srun
        raise RunError(f"--slurm: {error}", 3) from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"--slurm: {' '.join(str(error).split())[:300]}") from None
    try:
        with executor.batch():
            return [executor.submit(SlurmTraining(make_command(cell))) for cell in cells]
    except submitit.core.utils.FailedJobError as error:
        raise RunError(f"sbatch: {' '.join(str(error).split())[:300]}", 3) from None


def read_job_ids(path: Path) -> dict[str, str]:
    """The jobs of an earlier command by the path of their run."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(path, MAX_JOBS_FILE)
        if isinstance(found, dict):
            return {k: v for k, v in found.items() if isinstance(v, str)}
    return {}


def find_job(folder: Path, known: dict[str, str], cell: Cell) -> Any:
    """The job that still trains a cell; None if there is none."""
    from submitit import SlurmJob

    job_id = known.get(str(cell.run.path))
    if job_id is None:
        return None
    job = SlurmJob(folder, job_id, tasks=[0])
    return None if job.done() else job
