"""Train for a long time, killing environment workers, and measure leaks.

python benchmarks/soak.py [--minutes M] [--kills S]

A worker is killed every S seconds. Prints the growth per hour of memory, descriptors, threads,
children and shared memory, once the replay is full.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ARGS = (
    "debug",
    "--env.num",
    "2",
    "--env.restarts",
    "1000000",
    "--run.frames",
    "1000000000",
    "--run.precision",
    "fp32",
    "--replay.capacity_gb",
    "1e-3",
    "--replay.codec",
    "none",
    "--log.checkpoint",
    "200",
    "--log.every",
    "50",
    "--log.eval",
    "2000",
)
KINDS = (
    "rss_mb",
    "workers_rss_mb",
    "descriptors",
    "threads",
    "children",
    "zombies",
    "shared_memory",
    "shared_mb",
)
SHARED = ("/memfd:", "/dev/shm/")


def read_status(pid: int) -> dict[str, str]:
    """Read /proc/PID/status; empty if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def read_megabytes(found: dict[str, str]) -> float:
    return int(found.get("VmRSS", "0 kB").split()[0]) / 1024


def list_children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def list_shared_memory(pid: int) -> dict[int, int]:
    """List the shared memory that a process holds by descriptor or map, as {inode: bytes}."""
    found: dict[int, int] = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # it may have been closed meanwhile
            if os.readlink(entry.path).startswith(SHARED):
                there = os.stat(entry.path)
                found[there.st_ino] = there.st_size
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, _, _, _, inode, *name = line.split(maxsplit=5)
        if name and name[0].startswith(SHARED):
            first, end = (int(x, 16) for x in place.split("-"))
            found[int(inode)] = max(found.get(int(inode), 0), end - first)
    return found


def measure_process(pid: int, dead: set[int]) -> dict[str, float]:
    """Measure what a training holds now.

    `dead` are the zombies of the last call; only those that are still there are counted.
    """
    below = {child: read_status(child) for child in list_children(pid)}
    own, blocks = read_status(pid), list_shared_memory(pid)
    now = {child for child, found in below.items() if found.get("State", "").startswith("Z")}
    left = len(now & dead)
    dead.clear()
    dead.update(now)
    return {
        "rss_mb": read_megabytes(own),
        "workers_rss_mb": sum(map(read_megabytes, below.values())),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(own["Threads"]),
        "children": len(below),
        "zombies": left,
        "shared_memory": len(blocks),
        "shared_mb": sum(blocks.values()) / 2**20,
    }


def run_soak(minutes: float, kills: float, folder: Path) -> dict:
    """Train for `minutes` after the first metrics; return the growth over the last two thirds."""
    command = [sys.executable, str(ROOT / "train.py"), *ARGS, "--run.root", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    samples, times, killed = [], [], 0
    dead: set[int] = set()
    with open(folder / "said.log", "w") as log:
        training = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        due = 0.0
        while training.poll() is None and (not times or times[-1] < times[0] + 60 * minutes):
            time.sleep(min(1.0, minutes))
            if not any(folder.glob("*/*/*/metrics.jsonl")):
                continue  # it is still starting up
            try:
                samples.append(measure_process(training.pid, dead))
            except (OSError, KeyError):
                break  # the training has ended; the check below reports how
            times.append(time.monotonic())
            workers = list_children(training.pid)[:2]
            if kills and workers and times[-1] > due:
                os.kill(workers[killed % len(workers)], signal.SIGKILL)
                killed, due = killed + 1, times[-1] + kills
        training.terminate()
        training.wait()
    said = (folder / "said.log").read_text()
    if training.returncode != 75:
        raise SystemExit(
            f"the training ended with {training.returncode} after {len(samples)} "
            f"samples\n{said[-2000:]}"
        )
    return {
        **compute_growth(samples, times),
        "exit": training.returncode,
        "killed": killed,
        "restarts": said.count("env worker"),
        "samples": len(samples),
        **read_progress(folder),
    }


def read_progress(folder: Path) -> dict:
    """Read how far the training came."""
    (metrics,) = folder.glob("*/*/*/metrics.jsonl")
    last = [x for x in map(json.loads, metrics.read_text().splitlines()) if "updates" in x][-1]
    return {
        "frames": last["frames"],
        "updates": last["updates"],
        "replay_rows": last["replay/rows"],
    }


def compute_growth(samples: list[dict[str, float]], times: list[float]) -> dict:
    """Compute the growth per hour and the maximum of each kind."""
    late = len(samples) // 3
    hours = (np.array(times[late:]) - times[late]) / 3600
    found = {}
    for kind in KINDS:
        values = np.array([sample[kind] for sample in samples[late:]], float)
        slope = float(np.polyfit(hours, values, 1)[0])
        found[kind] = {
            "per_hour": round(slope, 2),
            "first": values[0],
            "last": values[-1],
            "most": float(values.max()),
        }
    return {"minutes": round((times[-1] - times[0]) / 60, 2), "growth": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--kills", type=float, default=5.0, help="seconds between kills of a worker; 0 kills none"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(
            json.dumps(run_soak(args.minutes, args.kills, Path(folder)), indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
