"""How a run is asked to stop."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType

from worldmodel.parallel import ALONE, World

SAME_REQUEST_S = 2.0


class Stop:
    """SIGTERM, SIGINT and SIGUSR1 ask for a stop after the step; a second signal ends the process at once.

    So does a budget of wall-clock minutes. All ranks stop where one is asked to. They must look together, and do at
    every step and every update.
    """

    def __init__(self, world: World = ALONE, minutes: float | None = None):
        self.world, self.asked, self.since = world, False, 0.0
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.why = "" if minutes is None else f" after run.max_minutes {minutes:g}"
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(name, self._ask)

    def __bool__(self) -> bool:
        return self.world.any(self.asked or time.monotonic() >= self.deadline)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self.since, self.why = True, now, f" by {signal.Signals(number).name}"
        # A scheduler signals every process, and torchrun hands on what it gets itself: that is one request.
        elif self.world.size == 1 or now > self.since + SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
