"""Work that many threads hand to the one that computes: models, simulators and their drawing
belong to one thread.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

LOOK_S = 0.1  # how soon a wish to stop is seen
PATIENCE_S = 120.0
MOST_WAITING = 32


class Busy(Exception):
    """Too much is waiting to be done, or it took too long."""


class Desk:
    """`ask` from any thread; `work` in the one that computes, until it is told to stop."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[tuple[Callable[[], Any], Future]] = queue.Queue(MOST_WAITING)

    def ask(self, job: Callable[[], Any]) -> Any:
        """The job's answer, or what it raised."""
        answer: Future = Future()
        try:
            self.waiting.put_nowait((job, answer))
            return answer.result(PATIENCE_S)
        except queue.Full:
            raise Busy("too many questions at once: ask again") from None
        except TimeoutError:
            answer.cancel()
            raise Busy(f"no answer within {PATIENCE_S:g} s") from None

    def work(self, stopped: Callable[[], bool]) -> None:
        while not stopped():
            try:
                job, answer = self.waiting.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(job())
                except Exception as error:
                    answer.set_exception(error)
