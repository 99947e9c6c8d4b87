"""Work that many threads hand to the one that computes: models, simulators and their drawing
belong to one thread.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

POLL_S = 0.1  # how soon a wish to stop is seen
TIMEOUT_S = 120.0
MAX_JOBS = 32


class BusyError(Exception):
    """Too much is waiting to be done, or it took too long."""


class JobQueue:
    """`ask` from any thread; `work` in the one that computes, until it is told to stop."""

    def __init__(self) -> None:
        self.jobs: queue.Queue[tuple[Callable[[], Any], Future]] = queue.Queue(MAX_JOBS)

    def submit(self, job: Callable[[], Any]) -> Any:
        """The job's answer, or what it raised."""
        answer: Future = Future()
        try:
            self.jobs.put_nowait((job, answer))
            return answer.result(TIMEOUT_S)
        except queue.Full:
            raise BusyError("too many questions at once: ask again") from None
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
