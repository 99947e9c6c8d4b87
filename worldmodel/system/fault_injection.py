"""Places where a test may strike a running program; the environment variable WM_FAULT says where
and how.

"save:state-torn" ends the process there, as a kill would. "save:state-torn@2" waits until it is
passed a second time; "save:state-torn=SIGTERM" sends the process a signal instead,
"...=SIGTERM+SIGTERM" two.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

# The sub-steps of a save, in their order.
SAVE = (
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

passed: Counter[str] = Counter()


def here(point: str) -> None:
    """A sub-step of a save is reached."""
    assert point in SAVE, point
    wanted = os.environ.get("WM_FAULT")
    if not wanted:
        return
    place, _, signals = wanted.partition("=")
    name, _, count = place.partition("@")
    passed[point] += 1
    if name != f"save:{point}" or passed[point] != int(count or 1):
        return
    if not signals:
        os._exit(137)
    for word in signals.split("+"):
        signal.raise_signal(signal.Signals[word])
