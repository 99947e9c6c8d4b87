"""The exit code and the one-line message of every error that is meant for the user."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

import torch

from worldmodel.distributed import MainRankFailure, format_rank_prefix
from worldmodel.errors import exit_code_of
from worldmodel.system.process_start import get_output_error

ENVIRONMENT = 3  # the exit code of environments that fail, and of missing packages (ValueError)
USE_LESS_MEMORY = (
    "lower replay.batch, replay.length, planner.candidates or replay.capacity_gb, or stop other "
    "programs"
)

FREE_DISK = "free disk space there, or raise the limit on it (quota, ulimit -f)"
FIX_PERMISSIONS = "make it readable and writable for you"
ADVICE = {
    errno.ENOSPC: FREE_DISK,
    errno.EDQUOT: FREE_DISK,
    errno.EFBIG: FREE_DISK,
    errno.EACCES: FIX_PERMISSIONS,
    errno.EPERM: FIX_PERMISSIONS,
    errno.EROFS: FIX_PERMISSIONS,
    errno.ENOMEM: USE_LESS_MEMORY,
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower env.num",
}


class LogFormatter(logging.Formatter):
    """Prefixes warnings and errors with their level, and all records with the rank if there are
    several.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        kind = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{format_rank_prefix(os.environ)}{kind}{text}"


def run_command(command: Callable[[], int], kept: str = "") -> int:
    """Run a command and return its exit code; an error meant for the user prints one line, a bug
    its traceback.

    The codes are those of worldmodel.errors, 74 for I/O and memory, and 130 for an interrupt.
    `kept` is appended where the cause lies outside the run (disk, memory, a signal): it says what
    was saved.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("worldmodel").setLevel(logging.INFO)  # threads, renderer, and why
    logging.captureWarnings(True)
    try:
        return command()
    except MainRankFailure as error:
        return error.exit_code
    except KeyboardInterrupt:
        return _report(f"interrupted{kept}", 130)
    except SystemExit as error:  # its own code may be 0
        return _report(f"a library ended the program by sys.exit({error.code!r}){kept}", 1)
    except Exception as error:
        code = exit_code_of(error)
        if code is not None:
            is_fault = code == ENVIRONMENT and not isinstance(error, ValueError)
            return _report(f"{_message(error)}{kept if is_fault else ''}", code)
        if isinstance(error, OSError):
            return _report(f"{_disk_message(error)}{kept}", 74)
        if _is_out_of_memory(error):
            return _report(f"out of memory{_details(error)}; {USE_LESS_MEMORY}{kept}", 74)
        raise


def check_output() -> int:
    """Return the exit code of an evaluation that succeeded: 74 if its output could not be written.

    A reader that closes its pipe early, as `head` does, has read what it wanted.
    """
    error = get_output_error()
    if error is None or isinstance(error, BrokenPipeError):
        return 0
    return _report(
        f"standard output cannot be written ({_disk_message(error)}); the files in the run's "
        "eval/ are complete",
        74,
    )


def _message(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) else error).rstrip()


def _disk_message(error: OSError) -> str:
    what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return f"{what}; {ADVICE[error.errno]}" if error.errno in ADVICE else what


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether Python, the allocator of torch or a GPU has no more memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _details(error: Exception) -> str:
    lines = str(error).splitlines()
    return f" ({lines[0][-160:]})" if lines else ""


def _report(error: object, code: int) -> int:
    sys.stderr.write(f"{format_rank_prefix(os.environ)}{error}\n")
    return code
