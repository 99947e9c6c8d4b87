"""The processor's cores: how many this process may use, and how many of them other programs are
using.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
SLIGHT = 0.25  # of a core: what others may take without being in the way
SHORTEST = 0.2  # seconds below which the system's clock ticks are too coarse


def cores() -> int:
    """Cores this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


class Others:
    """How many of those cores other programs keep busy, from the making of this until `busy` is
    asked.

    Where a core is shared, two threads are far slower than one: at each of thousands of steps one
    waits for the other.
    """

    def __init__(self) -> None:
        self.began = _now()

    def busy(self) -> int:
        """Zero where the system does not say."""
        if time.monotonic() - self.began[0] < SHORTEST:
            time.sleep(SHORTEST)
        passed, used, own = (b - a for a, b in zip(self.began, _now(), strict=True))
        return min(cores(), max(0, math.ceil((used - own) / passed - SLIGHT)))


def _now() -> tuple[float, float, float]:
    """The clock, what these cores have worked since the machine started, and what of it was for
    this process.
    """
    spent = os.times()
    own = spent.user + spent.system + spent.children_user + spent.children_system
    return time.monotonic(), _used(), own


def _used() -> float:
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
        names = {f"cpu{k}" for k in os.sched_getaffinity(0)}
        # user, nice, system, idle, iowait, irq, softirq; then what other machines took, which is
        # not for us to see
        ticks = sum(
            int(x) for name, *rest in lines if name in names for x in (*rest[:3], *rest[5:7])
        )
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0
