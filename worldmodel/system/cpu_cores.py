"""Counts of processor cores: those this process may use, and those other programs keep busy."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
NEGLIGIBLE = 0.25  # of a core; a smaller load of other programs does not slow this one
MIN_SECONDS = 0.2  # over shorter intervals the system's clock ticks are too coarse


def count_cores() -> int:
    """Count the cores that this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


class LoadMeter:
    """Measures the load of other programs, from construction until `count_busy` is called.

    Where programs share a core, two threads are far slower than one: at each of thousands of
    steps one waits for the other.
    """

    def __init__(self) -> None:
        self.began = _read_clocks()

    def count_busy(self) -> int:
        """Count the cores that other programs keep busy; 0 if the system does not report it."""
        if time.monotonic() - self.began[0] < MIN_SECONDS:
            time.sleep(MIN_SECONDS)
        elapsed, busy, own = (b - a for a, b in zip(self.began, _read_clocks(), strict=True))
        return min(count_cores(), max(0, math.ceil((busy - own) / elapsed - NEGLIGIBLE)))


def _read_clocks() -> tuple[float, float, float]:
    """Read the clock, the busy seconds of these cores since boot, and this process's part."""
    spent = os.times()
    own = spent.user + spent.system + spent.children_user + spent.children_system
    return time.monotonic(), _read_busy_seconds(), own


def _read_busy_seconds() -> float:
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
        names = {f"cpu{k}" for k in os.sched_getaffinity(0)}
        # The columns are user, nice, system, idle, iowait, irq, softirq, steal. Stolen time is
        # left out: it belongs to other virtual machines.
        ticks = sum(
            int(x) for name, *rest in lines if name in names for x in (*rest[:3], *rest[5:7])
        )
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0
