"""The versions.json of a run: the package versions, machine, commit and command of each start."""

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
from worldmodel.system.cpu_cores import count_cores
from worldmodel.system.files import read_json, replace_file

log = logging.getLogger(__name__)

FILE = "versions.json"
PACKAGES = ("torch", "numpy", "gymnasium", "dm-control", "mujoco")
MAX_BYTES, MAX_ENTRIES, MAX_WORDS, MAX_LETTERS = 1 << 24, 50, 200, 1000


def record_versions(run: Path, words: Sequence[str], frames: int) -> None:
    """Append an entry for a training that starts or resumes at `frames`, if anything changed.

    The file is documentation only: if it cannot be written, training continues without the entry.
    """
    entries = read_entries(run)
    try:
        now = {**collect_versions(), "words": [word[:MAX_LETTERS] for word in words[:MAX_WORDS]]}
        if entries and {k: v for k, v in entries[-1].items() if k != "frames"} == now:
            return
        entries = [*entries[:1], *entries[1:][-(MAX_ENTRIES - 2) :], {"frames": frames, **now}]
        replace_file(run / FILE, json.dumps({"entries": entries}, indent=1) + "\n")
    except OSError as error:
        log.warning(
            "%s cannot be written (%s); training continues without it",
            run / FILE,
            error.strerror or error,
        )


def read_entries(run: Path) -> list[dict[str, Any]]:
    """Read the valid entries, oldest first; none if the file is missing or damaged."""
    try:
        entries = read_json(run / FILE, MAX_BYTES)["entries"]
        return [entry for entry in entries if _is_valid(entry)][:MAX_ENTRIES]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_valid(entry: Any) -> bool:
    words, frames = entry["words"], entry["frames"]
    rest = [v for k, v in entry.items() if k not in ("words", "frames")]
    return (
        type(frames) is int
        and isinstance(words, list)
        and all(isinstance(text, str) for text in [*words, *rest])
        and len(rest) <= MAX_WORDS
    )


def collect_versions() -> dict[str, str]:
    """Collect the versions of this program and machine, without importing torch."""
    versions = {name: doctor.find_version(name) or "not installed" for name in PACKAGES}
    found = {
        "Python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "CPU": describe_cpu(),
    }
    if gpu := doctor.find_gpu():
        found["GPU"] = gpu
    return {**found, "commit": find_commit() or "unknown: no git checkout"}


def describe_cpu() -> str:
    """Describe the processor and how many of its cores this process may use."""
    named = (
        line.partition(":")[2].strip()
        for line in doctor.read_lines(Path("/proc"), "cpuinfo")
        if "model name" in line
    )
    count = count_cores()
    return f"{count} core{'s' * (count != 1)}, {next(named, platform.machine())}"


def find_commit() -> str:
    """Return the checkout's commit, with -dirty if tracked files differ; empty without git."""
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
            words,
            cwd=doctor.ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            env=_make_git_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _make_git_environment() -> dict[str, str]:
    """Copy the environment without GIT_* variables: within a hook they point git elsewhere."""
    return {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
