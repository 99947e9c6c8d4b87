"""python benchmarks/gpu.py [PRESET ...] [--device cuda|cpu] [--updates N] [--out FILE]: whole
updates on a GPU.

For each preset, on random batches: updates a second with a CUDA graph and without, kernels an
update, the share of the time in which one runs, memory, and the arithmetic beside this card's own
matrix products. On a CPU the same lines come from the same code without a graph, which is how it
is tested.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.compute import ACTION, Entry, parts
from worldmodel import build
from worldmodel.config import loading
from worldmodel.system import runtime
from worldmodel.training.learner import Learner

PRESETS = ("12m", "25m", "50m")
SHAPE = ["replay.batch=16", "replay.length=64"]  # as the peers' figures are given


def learner_of(
    preset: str, device: torch.device, precision: str, graphs: bool
) -> tuple[Learner, dict]:
    """A Dreamer 3 of this size, and a batch that waits in main memory as the replay's do."""
    c, model, batch = parts(
        [preset, "dreamer3", *SHAPE, "replay.start=cold", f"run.precision={precision}"]
    )
    policy = build.make_policy(c, model, ACTION)
    assert policy is not None
    learner = Learner(model.to(device), c.optim, device, precision, policy.to(device))
    if not graphs:
        learner.step.recorder = None
    return learner, batch


def seconds(learner: Learner, batch: dict, updates: int) -> float:
    """Wall-clock of one update among many, the queue of the device emptied before and after."""
    for _ in range(
        2 * learner.model.measure_every
    ):  # every kind of update was seen and captured by then
        learner.update(batch)
    wait(learner.device)
    began = time.perf_counter()
    for _ in range(updates):
        learner.update(batch)
    wait(learner.device)
    return (time.perf_counter() - began) / updates


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kernels(learner: Learner, batch: dict, updates: int = 5) -> tuple[float, float]:
    """Kernels an update, and milliseconds an update in which one runs; zeros on a CPU."""
    if learner.device.type == "cpu":
        return 0.0, 0.0
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(updates):
            learner.update(batch)
        wait(learner.device)
    events = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(events) / updates, sum(e.device_time_total for e in events) / updates / 1e3


def roof(device: torch.device) -> float:
    """TFLOP/s of a large bf16 product, the most this device does."""
    side = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = []
    for _ in range(7):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - began)
    return 2 * side**3 / sorted(times)[3] / 1e12


def work(preset: str) -> float:
    """TFLOP of one update, counted on a CPU."""
    learner, batch = learner_of(preset, torch.device("cpu"), "fp32", graphs=False)
    with FlopCounterMode(display=False) as counter:
        learner.loss(batch)[0].backward()
    return counter.get_total_flops() / 1e12


def bench(preset: str, device: torch.device, updates: int) -> dict[str, Entry]:
    """All figures of one preset; without a graph as the baseline of with one."""
    plain = seconds(*learner_of(preset, device, "bf16", graphs=False), max(2, updates // 4))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    learner, batch = learner_of(preset, device, "bf16", graphs=True)
    each = seconds(learner, batch, updates)
    launches, busy = kernels(learner, batch)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    figures = {
        "updates": (1 / each, "1/s", 1 / plain),
        "kernels": (launches, "", None),
        "kernel time": (busy, "ms", each * 1e3),
        "memory": (memory, "GiB", None),
        "speed": (work(preset) / each, "TFLOP/s", roof(device)),
    }
    return {
        f"gpu.{preset}.{k}": {"value": v, "unit": u, "baseline": b}
        for k, (v, u, b) in figures.items()
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Whole updates on a GPU.")
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args(argv)
    unknown = [p for p in args.presets if p not in loading.presets()]
    if unknown:
        sys.stderr.write(
            f"no preset called {', '.join(unknown)}; there are {', '.join(loading.presets())}\n"
        )
        return 2
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("this torch sees no GPU; --device cpu runs the same code without one\n")
        return 2
    from benchmarks.run import table

    runtime.configure_torch(0)
    results: dict[str, Entry] = {}
    for preset in args.presets:
        results |= bench(preset, torch.device(args.device), args.updates)
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
