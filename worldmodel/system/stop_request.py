"""A request to stop a run: by a signal, or when its minutes are used up."""

from __future__ import annotations

import math
import os
import signal
import time
from types import FrameType

from worldmodel.distributed import ALONE, World

SAME_REQUEST_S = 2.0


class Stop:
    """True once the run is asked to stop: by SIGTERM, SIGINT or SIGUSR1, or by its minutes.

    A second request ends the process at once. One request may arrive as several signals: a
    scheduler signals every process of a job, and whatever started this one (docs/slurm.sh,
    torchrun) passes on what it got itself. So signals within two seconds count as one request.
    The same signal twice counts as two, since Ctrl-C twice is meant; with several ranks only
    after two seconds, since torchrun passes on the same signal.

    All ranks stop if one is asked to. They exchange their answers, so all must ask at the same
    places: at every step and every update.
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
