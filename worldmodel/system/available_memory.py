"""The memory that this process may still allocate."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

GB = 1e9


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes this process may still allocate.

    That is the least of MemAvailable, the room below its cgroups' limits and its own (ulimit -v).
    """
    limits = _read_cgroup_limits(proc, cgroup)
    own = _read_own_limit()
    if own is not None:
        size = re.search(
            r"^VmSize:\s*(\d+) kB", _read_text(proc / "self" / "status"), re.MULTILINE
        )
        limits.append(max(0, own - (int(size[1]) * 1024 if size else 0)))
    for line in _read_text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    if not limits and hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=sys.maxsize)  # Windows tells none of these


def _read_own_limit() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _read_cgroup_limits(proc: Path, cgroup: Path) -> list[int]:
    """Return the bytes left below the limit of this process's cgroup and of each of its parents.

    Reads both versions of cgroups.
    """
    left = []
    for line in _read_text(proc / "self" / "cgroup").splitlines():
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
            text = _read_text(root / folder / limit).strip()
            if text.isdigit():  # "max" means no limit
                left.append(max(0, int(text) - _read_used_bytes(root / folder, usage)))
    return left


def _read_used_bytes(group: Path, usage: str) -> int:
    """Return the bytes a cgroup uses, without the cached file pages that the kernel can drop."""
    text = _read_text(group / usage).strip()
    idle = re.findall(
        r"^(?:total_)?inactive_file (\d+)$", _read_text(group / "memory.stat"), re.MULTILINE
    )
    return max(0, (int(text) if text.isdigit() else 0) - max(map(int, idle), default=0))


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
