"""File-system steps that replay, checkpoints and what reads a run share: durable writes, safe
opens, quarantine.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRIES, RETRY_SECONDS = 3, 0.2
LARGEST = 1e300  # of a number in a file; sums and differences of such are finite too


class Unwritten(OSError):
    """Something that had to be written was not; the message says what, what is kept all the same,
    and what to do.
    """


def persist(
    write: Callable[[], T],
    what: str,
    retries: int = RETRIES,
    undo: Callable[[], None] | None = None,
) -> T:
    """Write, again where the disk refuses; after so many retries Unwritten, which begins with
    `what` was not written.

    `undo` clears away what a failed attempt has left.
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
                again = (
                    "make room, or see that it can be written to, and give the same command again"
                )
                raise Unwritten(error.errno, f"{what}: {why}. To go on, {again}") from error
            attempt += 1
            log.warning(
                "%s: %s; trying again (%d of %d)", what.split(";")[0], why, attempt, retries
            )
            time.sleep(RETRY_SECONDS * attempt)


def fsync_directory(path: Path) -> None:
    """Make the creations and renames inside a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one, never half; a failure leaves
    nothing behind.
    """
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def open_regular(path: Path) -> int:
    """Open a regular file for reading, refusing symlinks, pipes and devices with an OSError."""
    # O_NONBLOCK: opening a named pipe would otherwise hang before it can be refused.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, "it is not a regular file", str(path))
    return fd


def read_small(path: Path, most: int) -> bytes:
    """A regular file, whole; an OSError where it is none, or holds more than so many bytes."""
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data


def read_json(path: Path, most: int) -> Any:
    """A JSON file that may be anyone's, its numbers finite or None; OSError as `read_small`, else
    ValueError.
    """
    try:
        text = read_small(path, most)
        return json.loads(
            text, parse_float=_finite, parse_int=_whole, parse_constant=lambda _: None
        )
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def _finite(text: str) -> float | None:
    return number(float(text))


def _whole(text: str) -> int | None:
    return int(text) if abs(int(text)) <= LARGEST else None


def write_all(fd: int, data: memoryview) -> None:
    """Write every byte; a short write goes on until the kernel says why."""
    while len(data):
        data = data[os.write(fd, data) :]


def read_exactly(fd: int, buffer: memoryview) -> bool:
    """Fill `buffer` from the file; False if the file ends first."""
    while len(buffer):
        count = os.readv(fd, [buffer])
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
