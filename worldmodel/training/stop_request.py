"""How a run is asked to stop."""

from __future__ import annotations

import math
import os
import signal
import time
from types import FrameType

from worldmodel.distributed import ALONE, World

SAME_REQUEST_S = 2.0


class Stop:
    """SIGTERM, SIGINT and SIGUSR1 ask for a stop after the step; a second request ends the process
    at once.

    One request may come as several signals: a scheduler signals every process of a job, and
    whatever started this one (docs/slurm.sh, torchrun) hands on what it got itself. So another
    signal within a moment is none of its own. The same one twice is, since Ctrl-C twice is meant;
    among ranks that too only after a moment, for torchrun hands on the very signal.

    A budget of wall-clock minutes stops in the same way. All ranks stop where one is asked to.
    They must look together, and do at every step and every update.
    """

    def __init__(self, world: World = ALONE, minutes: float | None = None):
        self.world, self.asked, self.first, self.since = world, False, 0, 0.0
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.why = "" if minutes is None else f" after run.max_minutes {minutes:g}"
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(name, self._ask)

    def __bool__(self) -> bool:
        return self.world.any(self.asked or time.monotonic() >= self.deadline)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self.first, self.since = True, number, now
            self.why = f" by {signal.Signals(number).name}"
        elif now > self.since + SAME_REQUEST_S or (self.world.size == 1 and number == self.first):
            os.write(
                2,
                f"\nended at once by a second signal, {signal.Signals(number).name}: what came "
                f"after the last "
                "checkpoint is lost, the same command goes on from there\n".encode(),
            )
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
