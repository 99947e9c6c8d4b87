"""What a program does first: streams that cannot fail, and signals that end it with a line.

A program imports this before anything else; it needs little more than the standard library.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from os import _exit  # os._exit is another while an environment runs: envs/parallel/
from types import FrameType
from typing import NoReturn, TextIO

from worldmodel.errors import escape_control

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has the first two alone
STOP_SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


def prepare_process() -> None:
    """Open the standard streams for good, and let signals end the program with a line."""
    open_standard_streams()
    for number in list_stop_signals():
        signal.signal(number, end_by_signal)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # ./wm blocks them until here


class LossyFile(io.FileIO):
    """An open descriptor to write to; what it refuses is lost, `error` is its first refusal."""

    error: OSError | None = None

    def write(self, data) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError as error:
            self.error = self.error or error
            return size
        return size if written is None else written  # None: it would block


class PlainText(io.TextIOWrapper):
    """Text for a terminal: what is printed moves no cursor, and hides and renames nothing.

    Names and messages may come from a run or an environment of somebody else's.
    """

    def write(self, text: str) -> int:
        super().write(escape_control(text, kept="\n"))
        return len(text)

    def write_control(self, text: str) -> None:
        """Write the terminal's own sequences."""
        super().write(text)


def open_standard_streams() -> None:
    """Let a closed, full or broken standard stream cost the output alone."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file to be opened would get this number, and all that is printed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = _open_lossy(1, sys.stdout), _open_lossy(2, sys.stderr)


def _open_lossy(number: int, before: TextIO | None) -> TextIO:
    file = io.BufferedWriter(LossyFile(number, "w", closefd=False))
    encoding = before.encoding if before else "utf-8"
    return PlainText(file, encoding, errors="backslashreplace", line_buffering=True)


def get_output_error() -> OSError | None:
    """Return why something printed on standard output was lost, or None."""
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file.error if isinstance(file, LossyFile) else None


def list_stop_signals() -> list[signal.Signals]:
    """List the signals that ask for a stop: not SIGHUP if it is ignored, as nohup does."""
    hangup = getattr(signal, "SIGHUP", None)
    ignored = hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (number == hangup and ignored)]


def end_by_signal(number: int, frame: FrameType | None) -> NoReturn:
    """End the process by a signal, with a line: nothing is under way that must be saved."""
    if os.environ.get("LOCAL_RANK", "0") == "0":  # all ranks of a machine get the same signals
        write_line(f"stopped by {signal.Signals(number).name}")
    die_by_signal(number)


@contextlib.contextmanager
def use_default_signals() -> Iterator[None]:
    """Let signals end the process without a line, where no handler of Python could be called."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in list_stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def restore_signals() -> Iterator[None]:
    """Put the handlers of signals back at the end; other threads than the main one set none."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in STOP_SIGNALS} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_by_signal(number: int) -> NoReturn:
    """End the process as the signal does by default, so that a shell sees what ended it."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    _exit(128 + number)  # process 1 of a container does not die of a signal


def write_line(text: str) -> None:
    """Write a line on standard error, from a signal handler."""
    start = "\n" if os.isatty(2) else ""  # ends a progress line, or the ^C that a terminal shows
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{text}\n".encode())
