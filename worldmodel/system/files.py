"""Durable writes, safe reads of untrusted files, and quarantine of damaged ones."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import logging
import operator
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from worldmodel.errors import WorldModelError, escape_control

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRIES, RETRY_SECONDS = 3, 0.2
NOT_A_FILE = "it is not a regular file"
MAX_MAGNITUDE = 1e300  # of a number read from a file, so that sums of such numbers stay finite


class LinkedFileError(WorldModelError, OSError):
    """A file of a run has a second name, through which a write would change another file."""

    exit_code = 4

    def __init__(self, path: Path | str):
        super().__init__(
            errno.EMLINK,
            f"{escape_control(str(path))} has a second name (a hard link, as cp -al makes), and "
            "writing to it would change that file too. Nothing was changed: copy the run with "
            "cp -r, which makes files of its own, and put the copy in its place",
        )


class WriteError(WorldModelError, OSError):
    """A file could not be written; the message says which, what was kept and what to do."""

    exit_code = 74


def write_with_retries(
    write: Callable[[], T],
    what: str,
    retries: int = RETRIES,
    undo: Callable[[], None] | None = None,
) -> T:
    """Call `write` until it succeeds; raise WriteError when all retries have failed.

    `what` begins the message and says what could not be written. `undo` removes the leftovers of
    a failed attempt.
    """
    attempt = 0
    while True:
        try:
            return write()
        except OSError as error:
            if undo:
                undo()
            why = error.strerror or str(error)
            if attempt == retries:
                advice = "free disk space or fix the permissions, and run the same command again"
                raise WriteError(error.errno, f"{what}: {why}. To resume, {advice}") from error
            attempt += 1
            log.warning("%s: %s; retry %d of %d", what.split(";")[0], why, attempt, retries)
            time.sleep(RETRY_SECONDS * attempt)


def fsync_directory(path: Path) -> None:
    """Make the creations and renames inside a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically; a failure leaves the old file and nothing else.

    Whatever has the name, such as a link or a pipe, is replaced and never written to.
    """
    partial = path.with_suffix(".tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def open_regular(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """Open a file of a run: OSError for a link, pipe, socket or device, and a second name.

    It is also the `opener` of Python's `open`, in any mode that does not truncate.
    """
    fd = open_input(path, flags | find_flags("O_NOFOLLOW"))
    if os.fstat(fd).st_nlink > 1:  # 0 if it was replaced meanwhile
        os.close(fd)
        raise LinkedFileError(path)
    return fd


def find_flags(*names: str) -> int:
    """Combine flags of os.open; each is missing on some system, Windows or POSIX."""
    return functools.reduce(operator.or_, (getattr(os, name, 0) for name in names))


def open_input(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """Open a file that the user names, through links too: OSError for a pipe, socket or device."""
    assert not flags & os.O_TRUNC, "it would be emptied before it is checked"
    # O_NONBLOCK: opening a named pipe would otherwise hang before it can be refused.
    try:
        fd = os.open(path, flags | find_flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"), 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise
        raise IsADirectoryError(errno.EISDIR, NOT_A_FILE, str(path)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, NOT_A_FILE, str(path))
    return fd


def read_small_file(
    path: Path, most: int, opener: Callable[[str, int], int] = open_regular
) -> bytes:
    """Read a whole regular file; OSError if it is not one or holds more than `most` bytes."""
    with open(path, "rb", opener=opener) as file:
        data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data


def read_json(path: Path, most: int) -> Any:
    """Read an untrusted JSON file; numbers that are not finite become None.

    Raises OSError as `read_small_file` does, and ValueError if the content is not JSON.
    """
    try:
        text = read_small_file(path, most)
        return json.loads(
            text, parse_float=_parse_float, parse_int=_parse_int, parse_constant=lambda _: None
        )
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def to_finite(value: object) -> float | None:
    """Return the value as a float, or None unless it is a finite number."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= MAX_MAGNITUDE
    ):
        return None
    return float(value)


def _parse_float(text: str) -> float | None:
    return to_finite(float(text))


def _parse_int(text: str) -> int | None:
    return int(text) if abs(int(text)) <= MAX_MAGNITUDE else None


def write_all(fd: int, data: memoryview) -> None:
    """Write every byte, continuing after short writes."""
    while len(data):
        data = data[os.write(fd, data) :]


def read_exactly(fd: int, buffer: memoryview) -> bool:
    """Fill `buffer` from the file; False if the file ends first."""
    file = io.FileIO(fd, closefd=False)
    while len(buffer):
        count = file.readinto(buffer)
        if not count:
            return False
        buffer = buffer[count:]
    return True


def quarantine(path: Path, why: str) -> Path:
    """Move a file or directory to `quarantine/<name>-<why>` beside it and return the new path."""
    folder = path.parent / "quarantine"
    folder.mkdir(exist_ok=True)
    target, count = folder / f"{path.name}-{why}", 1
    while os.path.lexists(target):
        target, count = folder / f"{path.name}-{why}.{count}", count + 1
    os.rename(path, target)
    return target
