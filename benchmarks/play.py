"""Frames per second that the page of `eval.py RUN play` is answered with: a dream and the
simulator, both drawn.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Entry = dict[str, float | str | None]
WARM, STEPS = 3, 40
UNTRAINED = [
    "--env.task",
    "dmc:walker_walk",
    "--env.repeat",
    "2",
    "--env.time_limit",
    "64",
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
    "--behavior.name",
    "actor_critic",
]
DRIVERS = {"hand": "hand", "actor": "actor_critic", "planner": "mpc"}


def bench(rounds: int = 3) -> dict[str, Entry]:
    """`small` on walker_walk, as large as it comes and never trained; the baseline is being driven
    by hand.
    """
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "train.py", "small", "--run.root", folder, *UNTRAINED]
        subprocess.run(train, cwd=ROOT, check=True, capture_output=True)
        (run,) = Path(folder).glob("*/*/seed0")
        found = answered(run, rounds)
    return {
        f"play.{k}": {"value": v, "unit": "frames/s", "baseline": found["hand"]}
        for k, v in found.items()
    }


def answered(run: Path, rounds: int) -> dict[str, float]:
    """Medians over interleaved rounds, asked as the page asks: the next question after the last
    answer.
    """
    command = [sys.executable, "-u", "eval.py", str(run), "play", "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("open http"))
        space = get(url + "state")
        still = [0] * (len(space["groups"]) or space["size"])
        rates: dict[str, list[float]] = {name: [] for name in DRIVERS}
        for _ in range(rounds):
            for name, driver in DRIVERS.items():
                asked = {"driver": driver, **({"action": still} if driver == "hand" else {})}
                get(url + "start", {})
                for at in range(WARM):
                    get(url + "step", {"at": at, **asked})
                began = time.perf_counter()
                for at in range(WARM, WARM + STEPS):
                    get(url + "step", {"at": at, **asked})
                rates[name].append(STEPS / (time.perf_counter() - began))
        process.terminate()
        process.communicate()
    return {name: statistics.median(found) for name, found in rates.items()}


def get(url: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)
