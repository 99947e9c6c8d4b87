"""Console output: plain lines, and a progress line with the estimated time left."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

from worldmodel.errors import escape_control

# How a user calls this program: an installed package has its configs inside.
PROGRAM = "wm" if (Path(__file__).parents[1] / "configs").is_dir() else "./wm"
NOTEBOOK_WIDTH = 120


def say(text: str) -> None:
    """Print one line on standard output."""
    print(text, flush=True)


def format_duration(seconds: float) -> str:
    """Format 75 as 1:15 and 3700 as 1:01:40."""
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def say_nothing(text: str) -> None:
    """Stand in for `say` on ranks that print nothing."""


class Progress:
    """A progress line: redrawn in place on a terminal and in a notebook, printed every 15 seconds
    elsewhere.

    `update` may be called at any rate; it redraws at most ten times a second. tqdm would fill a
    log with one growing line, start a thread, and have its carriage returns escaped like all text.
    """

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
        # A notebook obeys a carriage return, and no other control sequence.
        self.in_notebook = type(self.stream).__module__.startswith("ipykernel.")
        self.quiet = quiet
        self.live = not quiet and (self.in_notebook or self.stream.isatty())
        self.period = 15.0 if not self.live else 1.0 if self.in_notebook else 0.1
        self.began = time.monotonic()
        self.drawn_at = self.began - self.period if self.live else self.began
        self.has_ended = False

    def update(self, done: float, text: str = "") -> None:
        now = time.monotonic()
        finished = 0 < self.total <= done
        is_new_end = finished and not self.has_ended
        self.has_ended = finished
        if self.quiet or (now - self.drawn_at < self.period and not is_new_end):
            return
        self.drawn_at = now
        share = min(1.0, done / max(1, self.total))
        elapsed, progress = now - self.began, done - self.start
        left = "?"
        if progress > 0 or finished:
            left = format_duration(elapsed * max(0, self.total - done) / max(1, progress))
        bar = "#" * int(20 * share) + "." * (20 - int(20 * share))
        line = (
            f"{self.label} [{bar}] {share:4.0%} "
            f"{format_duration(elapsed)} elapsed, {left} left  {text}"
        )
        line = escape_control(line)
        if self.in_notebook:
            self.stream.write("\r" + line[:NOTEBOOK_WIDTH].ljust(NOTEBOOK_WIDTH))
        elif self.live:
            # The next redraw does not clear a line that has wrapped around.
            width = shutil.get_terminal_size((150, 24)).columns - 1
            # Standard error of a program escapes control sequences in all other text.
            getattr(self.stream, "write_control", self.stream.write)("\r\033[K")
            self.stream.write(line[:width])
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def close(self) -> None:
        if self.live:
            self.stream.write("\n")
            self.stream.flush()
