"""Named fault points at which a test can kill or signal the running program.

The environment variable WM_FAULT names one. "save:state-torn" kills the process at that point,
"save:state-torn@2" when the point is reached for the second time. "save:state-torn=SIGTERM" sends
the process a signal instead, "...=SIGTERM+SIGTERM" sends two.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

# The fault points of a save, in the order in which it reaches them.
SAVE_POINTS = (
    "replay-torn",
    "replay-unsynced",
    "replay-flushed",
    "start",
    "staging-created",
    "tensors-torn",
    "tensors-unsynced",
    "tensors-written",
    "state-torn",
    "state-unsynced",
    "state-written",
    "manifest-torn",
    "manifest-unsynced",
    "manifest-written",
    "staging-synced",
    "renamed",
    "parent-synced",
    "prune-moved",
    "pruned",
    "saved",
    "collected",
)

times_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Inject the requested fault if WM_FAULT names this point."""
    assert point in SAVE_POINTS, point
    fault = os.environ.get("WM_FAULT")
    if not fault:
        return
    target, _, signals = fault.partition("=")
    name, _, count = target.partition("@")
    times_reached[point] += 1
    if name != f"save:{point}" or times_reached[point] != int(count or 1):
        return
    if not signals:
        os._exit(137)
    for signal_name in signals.split("+"):
        signal.raise_signal(signal.Signals[signal_name])
