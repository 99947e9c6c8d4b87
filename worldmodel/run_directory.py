"""A run directory: its paths, its lock, its status, and whether a command may resume it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import logging
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

from worldmodel.checkpoint.format import CHECKPOINT_NAME
from worldmodel.config import loading as configs
from worldmodel.config.schema import Config, find_unused_sections
from worldmodel.errors import RunError, escape_control
from worldmodel.system.console import PROGRAM
from worldmodel.system.files import (
    NOT_A_FILE,
    LinkedFileError,
    open_regular,
    read_json,
    replace_file,
    write_with_retries,
)

log = logging.getLogger(__name__)

# Keys that a resumed run may change: they do not affect what is learnt, or say how to go on.
CHANGEABLE_KEYS = (
    "run.root",
    "run.frames",
    "run.fresh",
    "run.threads",
    "run.max_minutes",
    "train.budget",
    "run.device",
    "env.render",
    "replay.lost",
    "plan2explore.collect",
    "env.timeout",
    "env.restarts",
)
CHANGEABLE_SECTIONS = ("log",)


MAX_STATUS = 1 << 16
PACKED = "packed"  # the state of a run that was packed without its replay


def make_slug(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", task)


def locate_results(run: Path, other: str = "") -> Path:
    """Where eval.py writes: RUN/eval, and in it a folder for each other task or given reward."""
    return run / "eval" / make_slug(other)


def _check_entry(entry: os.DirEntry[str]) -> None:
    """RunError or LinkedFileError unless it is a regular file with one name."""
    path = escape_control(entry.path)
    if entry.is_symlink():
        raise RunError(
            f"{path} is a symbolic link, and nothing is read or written through one; "
            "put the files themselves there (--run.root sets the disk of a run)",
            4,
        )
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise RunError(
            f"{path} is a pipe, a socket or a device, and a run holds none. Nothing was changed: "
            "delete it",
            4,
        )
    if found.st_nlink > 1:
        raise LinkedFileError(entry.path)


def _write_file(path: Path, text: str, kept: str) -> None:
    """Replace a file, with retries; `kept` tells the user what a failure leaves intact."""
    write_with_retries(lambda: replace_file(path, text), f"{path} cannot be written; {kept}")


class RunDir:
    """The directory runs/<task>/<name>/seed<k> of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"
        self.videos = path / "videos"
        self.config_file = path / "config.yaml"
        self.status_file = path / "status.json"
        self._lock: int | None = None

    @classmethod
    def for_config(cls, c: Config) -> RunDir:
        return cls(
            Path(c.run.root) / make_slug(c.env.task) / make_slug(c.run.name) / f"seed{c.run.seed}"
        )

    def load_config(self) -> Config:
        """Load the run's configuration; RunError if this is no run directory of this version."""
        self.check_entries()
        if not self.config_file.is_file():
            raise RunError(
                f"{self.path} is not a run directory (no config.yaml in it)"
                f"{_suggest_runs(self.path)}",
                4,
            )
        try:
            return configs.load(self.config_file, open_regular)
        except configs.ConfigError as error:
            raise RunError(
                f"{self.config_file} does not fit this version: {'; '.join(error.problems)}. "
                "Nothing was changed: use the version that wrote it, or restore the file",
                4,
            ) from None

    def open(self, c: Config, restarts: int = 0) -> Config | None:
        """Lock the directory for a new or resumed run; RunError if this configuration must not.

        Returns the configuration it was trained with so far, None for a new run. After a restart
        by torchrun or Slurm, run.fresh is ignored: only the first start may be fresh.
        """
        if c.run.fresh and restarts and self.path.exists():
            log.warning(
                "--run.fresh true applies to a job's first start, and this is restart %d: %s is "
                "resumed; to start over, submit a new job",
                restarts,
                self.path,
            )
        elif c.run.fresh and self.path.exists():
            self._move_aside()
        self._take_lock()
        if not self._has_checkpoints():
            self._check_untrained()
            return None
        if not os.path.lexists(self.config_file):
            raise RunError(
                f"{self.path} holds checkpoints but no config.yaml, so nobody can say how they "
                "were trained. Nothing was changed: restore the file, or start over with "
                "--run.fresh true, which keeps this directory beside the new one",
                4,
            )
        if self._read_status().get("state") == PACKED:
            raise RunError(
                f"{self.path} is a packed run without the replay and optimizer that training "
                "needs; it can be loaded and evaluated, or packed with --replay where it was made",
                4,
            )
        if not self._read_status():
            log.warning("%s is missing or cannot be read; it is written again", self.status_file)
        return self._check_same_config(c)

    def check_entries(self) -> None:
        """Refuse links, pipes, sockets and devices, wherever they lie in the directory.

        An untrusted directory could redirect writes to other files with them, or hang a program.
        """
        folders = [self.path] if self.path.is_dir() else []
        while folders:
            # A training may meanwhile delete checkpoints and chunks.
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    else:
                        _check_entry(entry)

    def check_shared(self) -> None:
        """Check on every rank that it sees the directory that rank 0 has opened."""
        if not (self.path / "lock").exists():
            raise RunError(
                f"run.root: rank 0 has made {self.path}, but this machine does not see it; all "
                "ranks need a shared file system",
                2,
            )

    def record_start(self, c: Config, frames: int) -> None:
        """Write the configuration and the status, once the training is built and restored."""
        kept = "the checkpoints are unchanged" if frames else "nothing has been trained yet"
        _write_file(self.config_file, configs.to_yaml(c), kept)
        self.write_status("running", frames, kept)

    def write_status(
        self, state: str, frames: int, kept: str = "all progress is in the last checkpoint"
    ) -> None:
        """Write status.json: the run's state and the frames of its last checkpoint."""
        _write_file(
            self.status_file, json.dumps({"state": state, "frames": frames}, indent=1) + "\n", kept
        )

    def record_checkpoint(self, frames: int) -> None:
        """Write the status after a checkpoint; if that fails, warn and continue training."""
        try:
            self.write_status("running", frames)
        except OSError as error:
            log.warning("%s; training continues", str(error.strerror).split(". To resume")[0])

    def is_done(self, frames: int, wanted: int) -> bool:
        """Say whether an earlier command finished the run, including its final evaluation."""
        return self._read_status().get("state") == "done" and frames >= wanted

    def is_trained(self, c: Config) -> bool:
        """Say whether this run is finished; RunError if it has another configuration."""
        status = self._read_status()
        frames = status.get("frames")
        if status.get("state") != "done" or type(frames) is not int:
            return False
        if c.train.budget:  # which chose the frames when the run began
            before = self._check_same_config(c)
            return before.train.budget == c.train.budget and frames >= before.run.frames
        if frames < c.run.frames:
            return False
        self._check_same_config(c)
        return True

    def _read_status(self) -> dict[str, Any]:
        """Read status.json; an empty dict if it is missing or damaged."""
        with contextlib.suppress(OSError, ValueError):
            status = read_json(self.status_file, MAX_STATUS)
            return status if isinstance(status, dict) else {}
        return {}

    def _has_checkpoints(self) -> bool:
        """Say whether there is any checkpoint, including damaged ones."""
        folders = [
            folder
            for folder in (self.checkpoints, self.checkpoints / "quarantine")
            if folder.is_dir()
        ]
        return any(
            CHECKPOINT_NAME.match(entry.name) for folder in folders for entry in folder.iterdir()
        )

    def _check_untrained(self) -> None:
        """Refuse a run that had checkpoints and lost them; without it, the run starts again."""
        status = self._read_status()
        state, frames = status.get("state"), status.get("frames", 0)
        unreadable = not status and self.status_file.exists()
        if state in ("done", "stopped") or frames != 0 or unreadable:
            found = (
                f"{self.status_file.name} cannot be read"
                if unreadable
                else f"{self.status_file.name} says that the run was saved at {frames} frames "
                f"(state {state!r})"
            )
            raise RunError(
                f"{self.checkpoints} is missing or empty, but {found}. Nothing was changed: "
                "restore the checkpoints, or start over with --run.fresh true, which keeps this "
                "directory beside the new one",
                4,
            )
        logs = [name for name in ("metrics.jsonl", "scores.jsonl") if (self.path / name).exists()]
        if logs:
            log.warning(
                "an earlier start of %s ended before its first checkpoint: the run starts again, "
                "and overwrites %s",
                self.path,
                " and ".join(logs),
            )

    def _take_lock(self) -> None:
        """Make the directory and lock it; try again if another process moved it meanwhile."""
        try:
            import fcntl  # not on Windows, where saved runs can be opened all the same
        except ModuleNotFoundError:
            raise RunError(
                "training needs a POSIX system such as Linux, because it locks its run directory; "
                "here, saved runs can be opened with worldmodel.load and worldmodel.DreamEnv",
                3,
            ) from None
        while self._lock is None:
            self._make_folder()
            self.check_entries()
            place = self.path / "lock"
            handle = open_regular(place, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if place.exists() and os.path.samestat(os.fstat(handle), place.stat()):
                    self._lock = handle
            except OSError as error:
                raise RunError(self._explain_lock_error(error), 74) from None
            finally:
                if self._lock is None:
                    os.close(handle)

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"run.root: {escape_control(str(self.path))} cannot be made ({error.strerror}); "
                "name a folder that you may write, on a disk with free space",
                74,
            ) from None

    def _explain_lock_error(self, error: OSError) -> str:
        """Explain why the lock failed and what to do."""
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return (
                f"another process is training in {self.path}; wait for it, or give this run "
                f"another --run.name"
            )
        return (
            f"{self.path / 'lock'} cannot be locked ({error.strerror}), and without a lock two "
            "processes might train here at once. Nothing was changed: choose a --run.root on a "
            "file system with locks, such as a local disk"
        )

    def _move_aside(self) -> None:
        self._take_lock()  # refuses a directory that another process is writing
        target = self.path.with_name(f"{self.path.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(target)
        self.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock, and remove the directory if it holds nothing else."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if [entry.name for entry in self.path.iterdir()] == ["lock"]:
                    (self.path / "lock").unlink()
                    for folder in (self.path, *self.path.parents[:2]):  # runs/<task>/<name>
                        folder.rmdir()
            os.close(self._lock)
            self._lock = None

    def _check_same_config(self, c: Config) -> Config:
        """Return the run's configuration; RunError lists the keys in which the new one differs."""
        try:
            old = configs.load(self.config_file, open_regular)
        except (configs.ConfigError, IsADirectoryError) as error:
            why = error.problems[0] if isinstance(error, configs.ConfigError) else NOT_A_FILE
            raise RunError(
                f"{self.config_file} cannot be read ({why}); restore it, or start "
                "over with --run.fresh true, which keeps this directory beside the new one",
                4,
            ) from None
        changeable = find_unused_sections(old).union(CHANGEABLE_SECTIONS)
        fixed = {
            k: v
            for k, v in configs.find_differences(old, c).items()
            if k not in CHANGEABLE_KEYS and k.split(".")[0] not in changeable
        }
        if fixed:
            shown = "; ".join(f"{k} {was} -> {now}" for k, (was, now) in fixed.items())
            raise RunError(
                f"{self.path} was made with another configuration: {shown}. "
                "Use another --run.name, or start over with --run.fresh true",
                2,
            )
        return old


def _suggest_runs(path: Path) -> str:
    """Name the nearest run directories: below the path, beside it, or in runs/."""
    if path.is_dir():
        found = list(path.glob("**/config.yaml"))
    else:  # ROOT/<task>/<name>/seed<k>
        roots = [*path.parents[2:3], Path("runs")]
        found = [f for root in roots for f in root.glob("*/*/*/config.yaml")]
    names = sorted({str(f.parent) for f in found})
    shown = ", ".join(map(escape_control, difflib.get_close_matches(str(path), names, 4, 0.0)))
    return f"; there is {shown}" if shown else f"; make one with {PROGRAM} train"
