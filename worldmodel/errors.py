"""Errors that are meant for the user, as one family: each knows the exit code of a program.

A program prints such an error as one line and ends with its code: 2 settings, 3 environment,
4 bad data, 5 diverged, 74 I/O, memory or a lost process, and 128 and its number for a signal
before anything is begun. Any other exception is a bug: its traceback is printed and the exit code
is 1. The other codes are 0 for done and 75 for stopped and resumable; docs/reliability.md lists
them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a terminal obeys instead of showing it: control characters but the tab, marks that turn the
# direction of text, line breaks of Unicode, and bytes of file names that are no UTF-8.
CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape_control(text: str, kept: str = "") -> str:
    """The text on one line, its control characters as Python writes them, but those `kept`."""
    return CONTROL.sub(lambda m: m[0] if m[0] in kept else ascii(m[0])[1:-1], text)


def suggest(name: str, known: Sequence[str]) -> str:
    """' (did you mean X?)' or nothing; a key's last word counts as well as the whole."""
    import difflib  # which nothing but a mistake needs

    close = difflib.get_close_matches(name, known, 1, 0.6)
    if not close:
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [
            tails[t]
            for t in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), 1, 0.7)
        ]
    return f" (did you mean {close[0]}?)" if close else ""


class WorldModelError(Exception):
    """The base of the family; a subclass says which exit code is its own."""

    exit_code = 2


class UsageError(WorldModelError, ValueError):
    """A setting, an argument or a question that cannot be used; the message says what can."""


class MissingPackageError(UsageError):
    """A package that is asked for is not installed; the message has the command."""

    exit_code = 3


class RunError(WorldModelError):
    """A run directory, or what belongs to it, cannot be used as asked."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class DataError(WorldModelError):
    """Saved data is damaged, missing or of another version."""

    exit_code = 4


class Diverged(WorldModelError):
    """Losses, gradients, weights or actions are no longer finite."""

    exit_code = 5


def exit_code_of(error: BaseException) -> int | None:
    """Return the exit code of an error that is meant for the user; None means that it is a bug.

    The environments have a family of their own, which this package cannot import. So the mark of
    every such error is its attribute `exit_code`.
    """
    return getattr(error, "exit_code", None)
