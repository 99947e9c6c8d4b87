"""versions.json of a run: with what it was trained, where, from which commit, and by
which words.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.system import doctor
from worldmodel.system.cpu_cores import cores
from worldmodel.system.files import read_json, replace

log = logging.getLogger(__name__)

FILE = "versions.json"
PACKAGES = ("torch", "numpy", "gymnasium", "dm-control", "mujoco")
MOST_BYTES, MOST_ENTRIES, MOST_WORDS, MOST_LETTERS = 1 << 24, 50, 200, 1000


def note(run: Path, words: Sequence[str], frames: int) -> None:
    """An entry for a training that begins or goes on at `frames`, where something is not as it was
    the last time.

    It is for whoever looks at the run later; a disk that refuses costs the entry, never the run.
    """
    entries = read(run)
    try:
        now = {**here(), "words": [word[:MOST_LETTERS] for word in words[:MOST_WORDS]]}
        if entries and {k: v for k, v in entries[-1].items() if k != "frames"} == now:
            return
        entries = [*entries[:1], *entries[1:][-(MOST_ENTRIES - 2) :], {"frames": frames, **now}]
        replace(run / FILE, json.dumps({"entries": entries}, indent=1) + "\n")
    except OSError as error:
        log.warning(
            "%s cannot be written (%s); training goes on without it",
            run / FILE,
            error.strerror or error,
        )


def read(run: Path) -> list[dict[str, Any]]:
    """The entries, oldest first, of what they should be; none where there is no such file, or no
    sound one.
    """
    try:
        entries = read_json(run / FILE, MOST_BYTES)["entries"]
        return [entry for entry in entries if _sound(entry)][:MOST_ENTRIES]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _sound(entry: Any) -> bool:
    words, frames = entry["words"], entry["frames"]
    rest = [v for k, v in entry.items() if k not in ("words", "frames")]
    return (
        type(frames) is int
        and isinstance(words, list)
        and all(isinstance(text, str) for text in [*words, *rest])
        and len(rest) <= MOST_WORDS
    )


def here() -> dict[str, str]:
    """This program and this machine; torch is asked for its version, not imported."""
    versions = {name: doctor.installed(name) or "not installed" for name in PACKAGES}
    found = {
        "Python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "CPU": cpu(),
    }
    if gpu := doctor.find_gpu():
        found["GPU"] = gpu
    return {**found, "commit": commit() or "unknown: no git checkout"}


def cpu() -> str:
    """How many cores this process may use, of what kind."""
    named = (
        line.partition(":")[2].strip()
        for line in doctor.read(Path("/proc"), "cpuinfo")
        if "model name" in line
    )
    count = cores()
    return f"{count} core{'s' * (count != 1)}, {next(named, platform.machine())}"


def commit() -> str:
    """The checkout's commit, with -dirty where tracked files differ from it; empty where there is
    none.
    """
    if not (doctor.ROOT / ".git").exists():
        return ""
    words = [
        "git",
        "--no-optional-locks",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(
            words, cwd=doctor.ROOT, capture_output=True, text=True, timeout=20, env=_plain()
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _plain() -> dict[str, str]:
    """The environment without what would make git look elsewhere, as within a hook."""
    return {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
