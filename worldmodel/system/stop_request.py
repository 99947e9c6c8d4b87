"""A request to stop a run: by a signal, or when its minutes are used up."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType

from worldmodel.distributed import ALONE, MainRankFailure, World
from worldmodel.errors import RunError
from worldmodel.system.process_start import die_by_signal, list_stop_signals, write_line

SAME_REQUEST_S = 2.0


class Stop:
    """True once the run is asked to stop: by a signal (process_start.py) or by its minutes.

    A second request ends the process at once. One request may arrive as several signals: a
    scheduler signals every process of a job, and whatever started this one (docs/slurm.sh,
    torchrun) passes on what it got itself. So signals within two seconds count as one request.
    The same signal twice counts as two, since Ctrl-C twice is meant. SIGHUP does only after two
    seconds, since kernel and shell both send it when a terminal closes; and so do all with
    several ranks, since torchrun passes on the same signal.

    In a Python session, whose handler of Ctrl-C raises KeyboardInterrupt, a second Ctrl-C does so
    instead of ending the process. In other threads than the main one, signals stay as they are.

    All ranks stop if one is asked to. They exchange their answers, so all must ask at the same
    places: at every step and every update.
    """

    def __init__(self, world: World = ALONE, minutes: float | None = None):
        self.world, self.asked, self.first, self.since = world, False, 0, 0.0
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.why = "" if minutes is None else f" after run.max_minutes {minutes:g}"
        is_main = threading.current_thread() is threading.main_thread()
        numbers = list_stop_signals() if is_main else []
        self.before = {int(number): signal.signal(number, self._ask) for number in numbers}

    def __bool__(self) -> bool:
        return self.world.any(self.asked or time.monotonic() >= self.deadline)

    def check_start(self) -> None:
        """End a program that is asked to stop while it starts: nothing is under way yet."""
        number = max(self.world.gather(self.first))
        if number and not self.world.main:
            raise MainRankFailure(128 + number)
        if number:
            name = signal.Signals(number).name
            raise RunError(f"stopped by {name} while it started: nothing was begun", 128 + number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self.first, self.since = True, number, now
            self.why = f" by {signal.Signals(number).name}"
            return
        is_meant = self.world.size == 1 and number == self.first != signal.SIGHUP
        if is_meant or now > self.since + SAME_REQUEST_S:
            write_line(
                f"ended at once by a second signal, {signal.Signals(number).name}: what came "
                "after the last checkpoint is lost, the same command goes on from there"
            )
            if self.before.get(number) is signal.default_int_handler:
                signal.signal(number, signal.default_int_handler)
                raise KeyboardInterrupt
            die_by_signal(number)
