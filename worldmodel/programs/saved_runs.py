"""The run directories below a folder, each as a row of a table; damaged ones too.

It reads with the standard library alone and never changes a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldmodel.config.key_reference import iterate_lines
from worldmodel.errors import escape_control
from worldmodel.system.files import open_regular, read_json, read_small_file, to_finite

ROOT = Path("runs")
DEPTH = 4  # folders below the root: task, name, seed, and one more
MARKS = {"config.yaml", "status.json", "checkpoints"}  # one of them makes a folder a run
STATES = ("running", "stopped", "done")
MAX_BYTES = 1 << 16
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
COLUMNS = ("task", "name", "seed", "frames", "score", "state", "age", "size", "run")
RIGHT = ("seed", "frames", "score", "age", "size")  # columns of numbers


@dataclass(frozen=True)
class SavedRun:
    """What one line says about a run directory; None where nothing can be read."""

    run: str
    task: str | None
    name: str | None
    seed: int | None
    frames: int | None
    score: float | None
    state: str
    changed: float  # seconds since 1970
    bytes: int


def list_runs(root: Path) -> list[SavedRun]:
    """The runs below a folder, the one that changed last first."""
    runs = [read_run(path) for path in find_runs(root)]
    return sorted(runs, key=lambda run: (-run.changed, run.run))


def find_newest(root: Path) -> Path | None:
    """The run that changed last and whose configuration can be read."""
    return next((Path(run.run) for run in list_runs(root) if run.task is not None), None)


def find_runs(root: Path, depth: int = DEPTH) -> list[Path]:
    """Run directories at most so many folders below a folder; what cannot be read is left out."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    if MARKS & {*names}:
        return [root]
    below = [root / name for name in names if depth]
    return [run for path in below if path.is_dir() for run in find_runs(path, depth - 1)]


def read_run(path: Path) -> SavedRun:
    """Read what is known of a run without trusting its files."""
    config, status = _read_config(path / "config.yaml"), _read_status(path / "status.json")
    task, seed, frames = config.get("env.task"), config.get("run.seed", ""), status.get("frames")
    state = status.get("state")
    if task is None or state not in STATES:
        state = "damaged"
    elif state == "running" and not _is_locked(path / "lock"):
        state = "unfinished"
    return SavedRun(
        run=str(path),
        task=task,
        name=config.get("run.name"),
        seed=int(seed) if seed.isdecimal() and len(seed) < 20 else None,
        frames=frames if type(frames) is int and 0 <= frames < 1 << 63 else None,
        score=_read_score(path / "scores.jsonl"),
        state=state,
        changed=_find_change(path),
        bytes=_measure(path),
    )


def _read_config(path: Path) -> dict[str, str]:
    """The lines `section: key: value` of a saved configuration, {section.key: value}."""
    try:
        lines = read_small_file(path, MAX_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    return {f"{s}.{key}": _unquote(value) for s, key, value, _ in iterate_lines(lines) if key}


def _unquote(value: str) -> str:
    return value[1:-1] if value[:1] in ("'", '"') and value[:1] == value[-1:] else value


def _read_status(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        status = read_json(path, MAX_BYTES)
        return status if isinstance(status, dict) else {}
    return {}


def _read_score(path: Path) -> float | None:
    """The score of the last evaluation; a line that was cut off counts as none."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_BYTES))
            lines = file.read(MAX_BYTES).splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and "eval/score" in row:
                return to_finite(row["eval/score"])
    return None


def _is_locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock of a training; asks without locking."""
    try:
        number = os.stat(path, follow_symlinks=False).st_ino
        locks = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(line.split()[5].endswith(f":{number}") for line in locks.splitlines())


def _find_change(path: Path) -> float:
    """When the run's own files changed last, or the folder where they are missing."""
    times = []
    for name in ("", "config.yaml", "status.json", "metrics.jsonl", "scores.jsonl"):
        with contextlib.suppress(OSError):
            times.append(os.stat(path / name, follow_symlinks=False).st_mtime)
    return max(times[1:] or times or [0.0])


def _measure(path: Path) -> int:
    """The disk space of a folder's files, without those behind links."""
    total, folders = 0, [path]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    with contextlib.suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def format_runs(runs: list[SavedRun], now: float | None = None) -> str:
    """The runs as a table; text of others moves no cursor."""
    now = time.time() if now is None else now
    rows = [COLUMNS, *(_format_row(run, now) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in RIGHT else cell.ljust(width)
            for cell, width, column in zip(row, widths, COLUMNS, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _format_row(run: SavedRun, now: float) -> tuple[str, ...]:
    cells = (
        "?" if run.task is None else run.task,
        "?" if run.name is None else run.name,
        "?" if run.seed is None else str(run.seed),
        "?" if run.frames is None else f"{run.frames:,}",
        "" if run.score is None else f"{run.score:.1f}",
        run.state,
        format_age(now - run.changed),
        f"{run.bytes / 1e6:,.1f} MB" if run.bytes < 1e9 else f"{run.bytes / 1e9:,.1f} GB",
        run.run,
    )
    return tuple(escape_control(cell) for cell in cells)


def format_age(seconds: float) -> str:
    """Format 75 as 1m and 90000 as 1d."""
    whole = max(0, int(seconds))
    return next((f"{whole // unit}{name}" for unit, name in UNITS if whole >= unit), "0s")


def format_json(runs: list[SavedRun]) -> str:
    """The runs as JSON, one object for each."""
    return json.dumps([asdict(run) for run in runs], indent=1)
