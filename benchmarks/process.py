"""The start-up time of the programs, and the memory of a training."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Entry = dict[str, float | str | None]
MIB = 1024.0


def time_command(*arguments: str) -> float:
    """Measure a command's wall-clock time; RuntimeError if it fails other than by its settings."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode not in ((0, 2) if "fast" in arguments else (0,)):
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return took


def measure_startup(repeats: int = 5) -> dict[str, Entry]:
    """Measure medians of starts; the baselines are Python's own start and, for a run, torch's
    import.
    """
    bare = sorted(time_command("-c", "pass") for _ in range(repeats))[repeats // 2]
    torch = sorted(time_command("-c", "import torch") for _ in range(repeats))[repeats // 2]
    found: dict[str, Entry] = {}
    asked = {
        "wm": ["wm"],
        "help": ["train.py", "--help"],
        "error": ["train.py", "--optim.lr", "fast"],
    }
    for name, arguments in asked.items():
        times = sorted(time_command(*arguments) for _ in range(repeats))
        found[f"startup.{name}"] = {"value": times[repeats // 2], "unit": "s", "baseline": bare}
    times = sorted(time_short_run() for _ in range(3))
    return {**found, "startup.short_run": {"value": times[1], "unit": "s", "baseline": torch}}


def time_short_run() -> float:
    """Measure a training of 64 frames of walker_walk without updates, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        task = [
            "--env.task",
            "dmc:walker_walk",
            "--env.repeat",
            "2",
            "--env.time_limit",
            "64",
            "--run.root",
            folder,
        ]
        little = [
            "--run.frames",
            "64",
            "--train.prefill",
            "64",
            "--train.pretrain",
            "0",
            "--train.updates_per_step",
            "0",
            "--log.final_episodes",
            "1",
        ]
        return time_command("train.py", "laptop", *task, *little)


TRAINING = """
import json, sys
from benchmarks.compute import make_learner
from worldmodel.system import runtime
def high():
    status = open("/proc/self/status").read()
    return {k: int(status.split(k + ":")[1].split()[0]) for k in ("VmHWM", "VmRSS")}
runtime.configure_torch(0)
learner, batch = make_learner("small", "actor_critic", "bf16")
seen = []
for _ in range(3):
    for _ in range(int(sys.argv[1])):
        learner.update(batch)
    seen.append(high())
print(json.dumps(seen))
"""


def measure_memory(updates: int = 8) -> dict[str, Entry]:
    """Measure the peak memory of `small` updates without replay, and its growth over time."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(updates)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    return {
        "memory.small.peak": {"value": seen[-1]["VmHWM"] / MIB, "unit": "MiB", "baseline": None},
        "memory.small.grown": {
            "value": (seen[-1]["VmRSS"] - seen[0]["VmRSS"]) / MIB,
            "unit": "MiB",
            "baseline": None,
        },
    }
