"""The predicted size of a replay buffer, and a check that memory and disk can hold it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from worldmodel.errors import UsageError
from worldmodel.replay.chunk import CHUNK_NAME, Layout, Spec
from worldmodel.system.available_memory import GB, available_memory


def count_row_bytes(spec: Spec) -> int:
    """Return the stored size of one row in bytes."""
    return Layout(spec).row_bytes


def describe_capacity(spec: Spec, capacity_bytes: int, store: str) -> str:
    """Describe the full buffer's predicted size in one line."""
    size = count_row_bytes(spec)
    rows = capacity_bytes // size
    place = "in RAM" if store == "ram" else "on disk"
    return f"replay: up to {rows:,} rows of {size:,} bytes, {rows * size / GB:.2f} GB {place}"


def check_capacity(spec: Spec, capacity_bytes: int, store: str, directory: Path | None) -> None:
    """Raise ValueError, naming the key to lower, if memory or disk cannot hold the full buffer."""
    if capacity_bytes < count_row_bytes(spec):
        raise UsageError(
            f"replay.capacity_gb holds no row of {count_row_bytes(spec):,} bytes; raise it"
        )
    # With store ram the rows are also written to files, so that a restart can read them.
    places = {"memory": available_memory()} if store == "ram" else {}
    if directory is not None:
        places["disk"] = available_disk(directory)
    for place, free in places.items():
        if capacity_bytes > free:
            raise UsageError(
                f"the replay buffer may grow to {capacity_bytes / GB:.2f} GB but only "
                f"{free / GB:.2f} GB of {place} "
                f"is available; lower replay.capacity_gb to {max(0.0, 0.8 * free / GB):.2g}"
            )


def available_disk(directory: Path) -> int:
    """Return the bytes free for a replay directory, counting its present chunk files as free."""
    held = 0
    if directory.is_dir():
        held = sum(
            e.stat(follow_symlinks=False).st_size
            for e in os.scandir(directory)
            if CHUNK_NAME.fullmatch(e.name)
        )
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free + held
