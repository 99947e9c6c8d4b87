"""What a person sees while it runs: one live line with an ETA on a terminal, a line now and then
elsewhere.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


def say(text: str) -> None:
    """One line on the standard output."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """75 -> 1:15, 3700 -> 1:01:40."""
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def silent(text: str) -> None:
    """What `say` is to the ranks that do not talk."""


class Progress:
    """Call `update(done, text)` as often as you like; it draws at most ten times a second."""

    def __init__(
        self,
        total: float,
        label: str,
        start: float = 0,
        stream: TextIO | None = None,
        quiet: bool = False,
    ):
        self.total, self.label, self.start = total, label, start
        self.stream = stream or sys.stderr
        self.quiet, self.live = quiet, not quiet and self.stream.isatty()
        self.period = 0.1 if self.live else 15.0
        self.began = time.monotonic()
        self.drawn = self.began - self.period if self.live else self.began

    def update(self, done: float, text: str = "") -> None:
        now = time.monotonic()
        if self.quiet or (now - self.drawn < self.period and done < self.total):
            return
        self.drawn = now
        share = min(1.0, done / max(1, self.total))
        passed, fresh = now - self.began, done - self.start
        known = fresh > 0 or done >= self.total
        left = duration(passed * max(0, self.total - done) / max(1, fresh)) if known else "?"
        bar = "#" * int(20 * share) + "." * (20 - int(20 * share))
        line = f"{self.label} [{bar}] {share:4.0%} {duration(passed)} passed, {left} left  {text}"
        # What wraps around is not wiped by the next line
        wide = shutil.get_terminal_size((150, 24)).columns - 1
        self.stream.write(f"\r\033[K{line[:wide]}" if self.live else line + "\n")
        self.stream.flush()

    def close(self) -> None:
        if self.live:
            self.stream.write("\n")
            self.stream.flush()
