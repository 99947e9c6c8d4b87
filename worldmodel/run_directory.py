"""A run directory: where things lie, who may write, and whether a command may continue it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from worldmodel.checkpoint.format import CHECKPOINT_NAME
from worldmodel.config import loading as configs
from worldmodel.config.schema import Config
from worldmodel.system.files import replace_file, write_with_retries

log = logging.getLogger(__name__)

# Keys a resumed run may change: they say how long, how often, where and how fast, not what is
# learnt.
FREE_KEYS = (
    "run.root",
    "run.frames",
    "run.fresh",
    "run.threads",
    "run.max_minutes",
    "run.device",
    "env.render",
    "replay.lost",
    "env.timeout",
    "env.restarts",
)
FREE_SECTIONS = ("log",)


MAX_STATUS = 1 << 16


class RunError(RuntimeError):
    """A run directory that can't be used as asked."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def slug(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", task)


def _replace(path: Path, text: str, kept: str) -> None:
    """Unwritten, in words, where the disk refuses again and again."""
    write_with_retries(lambda: replace_file(path, text), f"{path} cannot be written; {kept}")


class RunDir:
    """runs/<task>/<name>/seed<k>"""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"
        self.videos = path / "videos"
        self.config_file = path / "config.yaml"
        self.status_file = path / "status.json"
        self._lock: int | None = None

    @classmethod
    def of(cls, c: Config) -> RunDir:
        return cls(Path(c.run.root) / slug(c.env.task) / slug(c.run.name) / f"seed{c.run.seed}")

    def config(self) -> Config:
        """What it was trained with; RunError where this is no run directory, or not one of this
        version.
        """
        self.check_links()
        if not self.config_file.is_file():
            raise RunError(
                f"{self.path} is not a run directory (no config.yaml in it){_nearby(self.path)}", 4
            )
        try:
            return configs.load(self.config_file)
        except configs.ConfigError as error:
            raise RunError(
                f"{self.config_file} does not fit this version: {'; '.join(error.problems)}. "
                f"Nothing was touched: use "
                "the version that made it, or put the file back as it was",
                4,
            ) from None

    def open(self, c: Config, restarts: int = 0) -> Config | None:
        """Make or continue the directory for this configuration, under a lock; RunError where that
        can't be.

        Returns what it was trained with so far, None where it begins.

        What torchrun or Slurm restarts goes on; only the first start may be fresh.
        """
        if c.run.fresh and restarts and self.path.exists():
            log.warning(
                "--run.fresh true counts for a job's first start, and this is its restart %d: "
                "%s goes on; to "
                "start over, submit the job anew",
                restarts,
                self.path,
            )
        elif c.run.fresh and self.path.exists():
            self._move_aside()
        self._take_lock()
        if not self._has_checkpoints():
            self._check_untrained()
        elif self.config_file.exists():
            return self._check_same(c)
        return None

    def check_links(self) -> None:
        """Refuse what would make this program write somewhere else: a run directory may come from
        anyone.
        """
        watched = [self.path, self.videos, self.path / "eval", self.path / "diverged"]
        inside = [entry for folder in watched if folder.is_dir() for entry in folder.iterdir()]
        inside += [folder / "quarantine" for folder in (self.checkpoints, self.replay)]
        for entry in inside:
            if entry.is_symlink():
                raise RunError(
                    f"{entry} is a symbolic link, and nothing is read or written through one; "
                    f"put the files "
                    "themselves there (--run.root says on which disk a run lies)",
                    4,
                )

    def check_seen(self) -> None:
        """On every rank: what rank 0 has opened must be there."""
        if not (self.path / "lock").exists():
            raise RunError(
                f"run.root: {self.path} is not there on this machine, though rank 0 has made "
                f"it; all ranks "
                "need one shared file system",
                2,
            )

    def begin(self, c: Config, frames: int) -> None:
        """Write the configuration down, once all its parts have been built and have gone on to
        `frames`.
        """
        kept = "the checkpoints are as they were" if frames else "nothing has been trained yet"
        _replace(self.config_file, configs.to_yaml(c), kept)
        self.status("running", frames, kept)

    def status(
        self, state: str, frames: int, kept: str = "all that was learnt is in the last checkpoint"
    ) -> None:
        """Machine-readable state of the run, replaced as a whole: frames that a checkpoint holds,
        or held.
        """
        _replace(
            self.status_file, json.dumps({"state": state, "frames": frames}, indent=1) + "\n", kept
        )

    def note(self, frames: int) -> None:
        """A checkpoint was written at so many frames; a disk that refuses costs the note, never
        the run.
        """
        try:
            self.status("running", frames)
        except OSError as error:
            log.warning("%s; training goes on", str(error.strerror).split(". To resume")[0])

    def is_done(self, frames: int, wanted: int) -> bool:
        """True where an earlier command finished, its closing evaluation included."""
        return self._said().get("state") == "done" and frames >= wanted

    def _said(self) -> dict[str, Any]:
        """What status.json says; nothing where it is not there or holds no such thing."""
        with (
            contextlib.suppress(OSError, ValueError, RecursionError),
            self.status_file.open() as file,
        ):
            said = json.loads(file.read(MAX_STATUS))
            return said if isinstance(said, dict) else {}
        return {}

    def _has_checkpoints(self) -> bool:
        """Whether there is any, damaged ones included."""
        folders = [
            folder
            for folder in (self.checkpoints, self.checkpoints / "quarantine")
            if folder.is_dir()
        ]
        return any(
            CHECKPOINT_NAME.match(entry.name) for folder in folders for entry in folder.iterdir()
        )

    def _check_untrained(self) -> None:
        """Without a checkpoint a run starts again, its logs cut to nothing, unless it has
        had one.
        """
        said = self._said()
        state, frames = said.get("state"), said.get("frames", 0)
        if state in ("done", "stopped") or frames != 0 or (not said and self.status_file.exists()):
            held = (
                f"it was saved at {frames} frames (state {state!r})"
                if said
                else "it cannot be read"
            )
            raise RunError(
                f"{self.checkpoints} is missing or empty, but {self.status_file.name} says of "
                f"this run that {held}. "
                "Nothing was touched: put the checkpoints back, or start over with --run.fresh "
                "true, which keeps this "
                "directory beside the new one",
                4,
            )
        logs = [name for name in ("metrics.jsonl", "scores.jsonl") if (self.path / name).exists()]
        if logs:
            log.warning(
                "an earlier start of %s ended before its first checkpoint: it starts again from "
                "nothing, and "
                "%s with it",
                self.path,
                " and ".join(logs),
            )

    def _take_lock(self) -> None:
        """Make the directory and lock it; once more where another process has moved it aside in
        between.
        """
        while self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self.check_links()
            place = self.path / "lock"
            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if place.exists() and os.path.samestat(os.fstat(handle), place.stat()):
                    self._lock = handle
            except OSError as error:
                raise RunError(self._no_lock(error), 74) from None
            finally:
                if self._lock is None:
                    os.close(handle)

    def _no_lock(self, error: OSError) -> str:
        """Why there is none, and what to do about it."""
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return (
                f"another process is training in {self.path}; wait for it, or give this run its "
                f"own --run.name"
            )
        return (
            f"{self.path / 'lock'} cannot be locked ({error.strerror}), and without a lock two "
            f"trainings might write "
            "here at once. Nothing was touched: choose a --run.root on a file system with "
            "locks, such as a local disk"
        )

    def _move_aside(self) -> None:
        self._take_lock()  # refuses to move a directory that is being written
        target = self.path.with_name(f"{self.path.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(target)
        self.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others train here; what holds nothing but the lock was never a run, and goes."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if [entry.name for entry in self.path.iterdir()] == ["lock"]:
                    (self.path / "lock").unlink()
                    for folder in (self.path, *self.path.parents[:2]):  # runs/<task>/<name>
                        folder.rmdir()
            os.close(self._lock)
            self._lock = None

    def _check_same(self, c: Config) -> Config:
        """The configuration so far; refuses to continue with another, showing what differs."""
        try:
            old = configs.load(self.config_file)
        except configs.ConfigError as error:
            raise RunError(
                f"{self.config_file} cannot be read ({error.problems[0]}); put it back as it "
                f"was, or start over with "
                "--run.fresh true, which keeps this directory beside the new one",
                4,
            ) from None
        changed = configs.differences(old, c)
        held = {
            k: v
            for k, v in changed.items()
            if k not in FREE_KEYS and k.split(".")[0] not in FREE_SECTIONS
        }
        if held:
            shown = "; ".join(f"{k} {was} -> {now}" for k, (was, now) in held.items())
            raise RunError(
                f"{self.path} was made with another configuration: {shown}. "
                "Use another --run.name, or start over with --run.fresh true",
                2,
            )
        return old


def _nearby(path: Path) -> str:
    """Run directories below what was given, or in runs/, as a hint."""
    roots = [path if path.is_dir() else Path("runs")]
    found = sorted(
        str(f.parent) for root in roots if root.is_dir() for f in root.glob("**/config.yaml")
    )[:4]
    return f"; there is {', '.join(found)}" if found else "; make one with ./wm train"
