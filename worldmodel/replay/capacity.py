"""What a replay buffer will take, and whether this machine can hold it."""

from __future__ import annotations

import os
import re
import resource
import shutil
from pathlib import Path

from worldmodel.replay.chunk import NAME, Layout, Spec

GB = 1e9


def bytes_per_row(spec: Spec) -> int:
    """Return the stored size of one row in bytes."""
    return Layout(spec).row_bytes


def describe_capacity(spec: Spec, capacity_bytes: int, store: str) -> str:
    """Describe the full buffer's predicted size in one line."""
    size = bytes_per_row(spec)
    rows = capacity_bytes // size
    place = "in RAM" if store == "ram" else "on disk"
    return f"replay: up to {rows:,} rows of {size:,} bytes, {rows * size / GB:.2f} GB {place}"


def check_capacity(spec: Spec, capacity_bytes: int, store: str, directory: Path | None) -> None:
    """Raise ValueError, naming the key to lower, when memory or disk cannot hold the full
    buffer.
    """
    if capacity_bytes < bytes_per_row(spec):
        raise ValueError(
            f"replay.capacity_gb holds no row of {bytes_per_row(spec):,} bytes; raise it"
        )
    # The files stay beside the rows in memory: a restart reads them back.
    places = {"memory": available_memory()} if store == "ram" else {}
    if directory is not None:
        places["disk"] = available_disk(directory)
    for place, free in places.items():
        if capacity_bytes > free:
            raise ValueError(
                f"the replay buffer may grow to {capacity_bytes / GB:.2f} GB but only "
                f"{free / GB:.2f} GB of {place} "
                f"is available; lower replay.capacity_gb to {max(0.0, 0.8 * free / GB):.2g}"
            )


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes this process may still allocate: the least of MemAvailable and its cgroups'
    and own limits.
    """
    limits = _cgroup_room(proc, cgroup)
    own = resource.getrlimit(resource.RLIMIT_AS)[0]  # ulimit -v
    if own != resource.RLIM_INFINITY:
        size = re.search(r"^VmSize:\s*(\d+) kB", _text(proc / "self" / "status"), re.MULTILINE)
        limits.append(max(0, own - (int(size[1]) * 1024 if size else 0)))
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    return min(limits, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _cgroup_room(proc: Path, cgroup: Path) -> list[int]:
    """What is left below the limits of this process's cgroup and of every one above it, in both
    versions of cgroups.
    """
    left = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = cgroup / "memory" if controllers else cgroup
        limit, usage = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        here = Path(name.lstrip("/"))
        for folder in (here, *here.parents):
            text = _text(root / folder / limit).strip()
            if text.isdigit():  # "max" means no limit
                left.append(max(0, int(text) - _in_use(root / folder, usage)))
    return left


def _in_use(group: Path, usage: str) -> int:
    """Bytes that a cgroup cannot have back: its pages of files that nobody has looked at lately go
    when asked for.
    """
    text = _text(group / usage).strip()
    idle = re.findall(
        r"^(?:total_)?inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE
    )
    return max(0, (int(text) if text.isdigit() else 0) - max(map(int, idle), default=0))


def available_disk(directory: Path) -> int:
    """Return the bytes free for a replay directory, its present chunk files included."""
    held = 0
    if directory.is_dir():
        held = sum(
            e.stat(follow_symlinks=False).st_size
            for e in os.scandir(directory)
            if NAME.fullmatch(e.name)
        )
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free + held


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
