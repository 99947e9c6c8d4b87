"""The exit code and the one-line message of every error that is meant for the user."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

import torch

from worldmodel.checkpoint.store import CheckpointError
from worldmodel.config.loading import ConfigError
from worldmodel.distributed import MainRankFailed, RankLost, format_rank_prefix
from worldmodel.replay.buffer import ReplayError
from worldmodel.run_directory import RunError
from worldmodel.system.files import WriteError
from worldmodel.training.learner import Diverged

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
    """Run a command and return its exit code; an error prints one line.

    2 config, 3 environment, 4 bad data, 5 diverged, 74 I/O, memory or a lost rank, 130
    interrupted. `kept` is appended where the cause lies outside the run (disk, memory, a signal):
    it says what was saved.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("envs").setLevel(logging.INFO)  # which renderer was chosen, and why
    logging.captureWarnings(True)
    try:
        return command()
    except MainRankFailed as error:
        return error.exit_code
    except (RunError, RankLost) as error:
        return _report(error, error.exit_code)
    except ConfigError as error:
        return _report(error, 2)
    except (CheckpointError, ReplayError) as error:
        return _report(error, 4)
    except (Diverged, FloatingPointError) as error:
        return _report(error, 5)
    except MemoryError as error:
        return _report(
            f"out of memory{f' ({error})' if str(error) else ''}; {USE_LESS_MEMORY}{kept}", 74
        )
    except WriteError as error:
        return _report(error.strerror, 74)
    except OSError as error:
        what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
        return _report(f"{what}{advice}{kept}", 74)
    except KeyboardInterrupt:
        return _report(f"interrupted{kept}", 130)
    except ValueError as error:
        if _is_project_error(error):
            return _report(error, 2)
        raise
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return _report(
                f"out of memory ({str(error).splitlines()[0][-160:]}); {USE_LESS_MEMORY}{kept}", 74
            )
        if type(error).__module__.startswith("envs"):
            return _report(f"{str(error).rstrip()}{kept}", 3)
        raise


def _is_project_error(error: BaseException) -> bool:
    """Say whether this project's own code raised the error.

    A ValueError of ours is the user's mistake; one from inside a library is a bug, and its
    traceback must be seen.
    """
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return name.split(".")[0] in ("worldmodel", "envs", "__main__")


def _report(error: object, code: int) -> int:
    sys.stderr.write(f"{format_rank_prefix(os.environ)}{error}\n")
    return code
