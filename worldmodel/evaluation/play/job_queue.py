"""A queue of jobs from many threads to the one thread that computes.

Models, simulators and rendering belong to one thread.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

POLL_S = 0.1  # how soon a stop is noticed
TIMEOUT_S = 120.0
MAX_JOBS = 32


class BusyError(Exception):
    """Too many jobs are waiting, or a job took too long."""


class JobQueue:
    """Call `submit` in any thread and `process` in the computing one."""

    def __init__(self) -> None:
        self.jobs: queue.Queue[tuple[Callable[[], Any], Future]] = queue.Queue(MAX_JOBS)

    def submit(self, job: Callable[[], Any]) -> Any:
        """Wait for the job's result; raise what the job raised."""
        answer: Future = Future()
        try:
            self.jobs.put_nowait((job, answer))
            return answer.result(TIMEOUT_S)
        except queue.Full:
            raise BusyError("too many requests at once: try again") from None
        except TimeoutError:
            answer.cancel()
            raise BusyError(f"no answer within {TIMEOUT_S:g} s") from None

    def process(self, stopped: Callable[[], bool]) -> None:
        while not stopped():
            try:
                job, answer = self.jobs.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(job())
                except Exception as error:
                    answer.set_exception(error)
