"""Errors a user can meet, as one clear line and the exit code that scripts rely on."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

import torch

from worldmodel.checkpoint.store import CheckpointError
from worldmodel.config.loading import ConfigError
from worldmodel.distributed import Ended, Lost, speaker
from worldmodel.replay.buffer import ReplayError
from worldmodel.run_directory import RunError
from worldmodel.system.files import Unwritten
from worldmodel.training.learner import Diverged

ROOM = (
    "lower replay.batch, replay.length, planner.candidates or replay.capacity_gb, or let nothing "
    "else run beside it"
)

FULL = "make room there, or raise the limit on it (quota, ulimit -f)"
CLOSED = "see that it can be read and written by you"
ADVICE = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
    errno.EROFS: CLOSED,
    errno.ENOMEM: ROOM,
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower env.num",
}


class Plain(logging.Formatter):
    """Warnings say that they are, information is just a line; either says whose it is where there
    are several ranks.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        kind = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{speaker(os.environ)}{kind}{text}"


def guarded(command: Callable[[], int], kept: str = "") -> int:
    """Run a command; 2 config, 3 environment, 4 bad data, 5 diverged, 74 I/O, no memory or a lost
    rank.

    `kept` is said where a run is cut short by what it was not to blame for.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("envs").setLevel(logging.INFO)  # which renderer was taken, and why
    logging.captureWarnings(True)
    try:
        return command()
    except Ended as error:
        return error.exit_code
    except (RunError, Lost) as error:
        return _report(error, error.exit_code)
    except ConfigError as error:
        return _report(error, 2)
    except (CheckpointError, ReplayError) as error:
        return _report(error, 4)
    except (Diverged, FloatingPointError) as error:
        return _report(error, 5)
    except MemoryError as error:
        return _report(f"out of memory{f' ({error})' if str(error) else ''}; {ROOM}{kept}", 74)
    except Unwritten as error:
        return _report(error.strerror, 74)
    except OSError as error:
        what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
        return _report(f"{what}{advice}{kept}", 74)
    except KeyboardInterrupt:
        return _report(f"interrupted{kept}", 130)
    except ValueError as error:
        if _ours(error):
            return _report(error, 2)
        raise
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return _report(
                f"out of memory ({str(error).splitlines()[0][-160:]}); {ROOM}{kept}", 74
            )
        if type(error).__module__.startswith("envs"):
            return _report(f"{str(error).rstrip()}{kept}", 3)
        raise


def _ours(error: BaseException) -> bool:
    """A ValueError raised by this project's own lines is the user's; one from deep in a library is
    a bug to be seen.
    """
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return name.split(".")[0] in ("worldmodel", "envs", "__main__")


def _report(error: object, code: int) -> int:
    sys.stderr.write(f"{speaker(os.environ)}{error}\n")
    return code
