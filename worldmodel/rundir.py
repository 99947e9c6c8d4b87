"""A run directory: where things lie, who may write, and whether a command may continue it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from pathlib import Path

from worldmodel import config as configs
from worldmodel.schema import Config

# Keys a resumed run may change: they say how long, how often, where and how fast, not what is learnt.
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


def _replace(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one, never half."""
    partial = path.with_suffix(".tmp")
    partial.write_text(text)
    partial.replace(path)


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
        """What it was trained with; RunError where this is no run directory, or not one of this version."""
        self.check_links()
        if not self.config_file.is_file():
            raise RunError(f"{self.path} is not a run directory (no config.yaml in it){_nearby(self.path)}", 4)
        try:
            return configs.load(self.config_file)
        except configs.ConfigError as error:
            raise RunError(f"{self.config_file} does not fit this version: {'; '.join(error.problems)}", 4) from None

    def open(self, c: Config, restarts: int = 0) -> None:
        """Make or continue the directory for this configuration, under a lock; RunError where that can't be.

        What torchrun restarts goes on; only the first start may be fresh.
        """
        if c.run.fresh and not restarts and self.path.exists():
            self._move_aside()
        self.path.mkdir(parents=True, exist_ok=True)
        self.check_links()
        self._take_lock()
        if self.config_file.exists() and self.checkpoints.exists():
            self._check_same(c)

    def check_links(self) -> None:
        """Refuse what would make this program write somewhere else: a run directory may come from anyone."""
        watched = [self.path, self.videos, self.path / "eval", self.path / "diverged"]
        inside = [entry for folder in watched if folder.is_dir() for entry in folder.iterdir()]
        inside += [folder / "quarantine" for folder in (self.checkpoints, self.replay)]
        for entry in inside:
            if entry.is_symlink():
                raise RunError(f"{entry} is a symbolic link, and nothing is read or written through one; put the files "
                               "themselves there (--run.root says on which disk a run lies)", 4)  # fmt: skip

    def check_seen(self) -> None:
        """On every rank: what rank 0 has opened must be there."""
        if not (self.path / "lock").exists():
            raise RunError(f"run.root: {self.path} is not there on this machine, though rank 0 has made it; all ranks "
                           "need one shared file system", 2)  # fmt: skip

    def begin(self, c: Config) -> None:
        """Write the configuration down, once all its parts have been built."""
        _replace(self.config_file, configs.to_yaml(c))
        self.status(state="running")

    def status(self, **values: object) -> None:
        """Machine-readable state of the run, replaced as a whole."""
        _replace(self.status_file, json.dumps(values, indent=1) + "\n")

    def is_done(self, frames: int, wanted: int) -> bool:
        """True where an earlier command finished, its closing evaluation included."""
        try:
            with self.status_file.open() as file:
                state = json.loads(file.read(MAX_STATUS))["state"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        return state == "done" and frames >= wanted

    def _take_lock(self) -> None:
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise RunError(
                f"another process is training in {self.path}; wait for it, or give this run its own --run.name", 74
            ) from None
        self._lock = handle

    def _move_aside(self) -> None:
        self._take_lock()  # refuse to move a directory that is being written
        target = self.path.with_name(f"{self.path.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(target)
        self.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others train here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_same(self, c: Config) -> None:
        """Refuse to continue with another configuration, showing what differs."""
        try:
            old = configs.load(self.config_file)
        except configs.ConfigError as error:
            raise RunError(
                f"{self.config_file} cannot be read ({error.problems[0]}); put it back as it was, or start over with "
                "--run.fresh true, which keeps this directory beside the new one",
                4,
            ) from None
        changed = configs.differences(old, c)
        held = {k: v for k, v in changed.items() if k not in FREE_KEYS and k.split(".")[0] not in FREE_SECTIONS}
        if held:
            shown = "; ".join(f"{k} {was} -> {now}" for k, (was, now) in held.items())
            raise RunError(
                f"{self.path} was made with another configuration: {shown}. "
                "Use another --run.name, or start over with --run.fresh true",
                2,
            )


def _nearby(path: Path) -> str:
    """Run directories below what was given, or in runs/, as a hint."""
    roots = [path if path.is_dir() else Path("runs")]
    found = sorted(str(f.parent) for root in roots if root.is_dir() for f in root.glob("**/config.yaml"))[:4]
    return f"; there is {', '.join(found)}" if found else "; make one with ./wm train"
