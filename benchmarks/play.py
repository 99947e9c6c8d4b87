"""Frames per second of `eval.py RUN play`, with the imagined and the simulator's picture."""

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


def measure(rounds: int = 3) -> dict[str, Entry]:
    """Measure the untrained preset `small` on walker_walk; the baseline is driving by hand."""
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "train.py", "small", "--run.root", folder, *UNTRAINED]
        subprocess.run(train, cwd=ROOT, check=True, capture_output=True)
        (run,) = Path(folder).glob("*/*/seed0")
        found = measure_frame_rates(run, rounds)
    return {
        f"play.{k}": {"value": v, "unit": "frames/s", "baseline": found["hand"]}
        for k, v in found.items()
    }


def measure_frame_rates(run: Path, rounds: int) -> dict[str, float]:
    """Measure medians over interleaved rounds, with one request at a time as from the page."""
    command = [sys.executable, "-u", "eval.py", str(run), "play", "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("open http"))
        space = send_request(url + "state")
        still = [0] * (len(space["groups"]) or space["size"])
        rates: dict[str, list[float]] = {name: [] for name in DRIVERS}
        for _ in range(rounds):
            for name, driver in DRIVERS.items():
                asked = {"driver": driver, **({"action": still} if driver == "hand" else {})}
                send_request(url + "start", {})
                for at in range(WARM):
                    send_request(url + "step", {"at": at, **asked})
                began = time.perf_counter()
                for at in range(WARM, WARM + STEPS):
                    send_request(url + "step", {"at": at, **asked})
                rates[name].append(STEPS / (time.perf_counter() - began))
        process.terminate()
        process.communicate()
    return {name: statistics.median(found) for name, found in rates.items()}


def send_request(url: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)
