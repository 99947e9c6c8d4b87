"""Measure whole updates on a GPU.

python benchmarks/gpu.py [PRESET ...] [--device cuda|cpu] [--updates N] [--out FILE]

For each preset, on random batches: updates per second with and without a CUDA graph, kernels per
update, the time in which kernels run, memory, and the speed against this GPU's own matrix
products. On a CPU the same code runs without a graph, which is how it is tested.
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

from benchmarks.compute import ACTION, Entry, make_model_and_batch
from worldmodel import build
from worldmodel.config.preset_files import list_presets
from worldmodel.system import runtime
from worldmodel.training.learner import Learner

PRESETS = ("12m", "25m", "50m")
SHAPE = ["replay.batch=16", "replay.length=64"]  # the shape of published figures


def make_learner(
    preset: str, device: torch.device, precision: str, graphs: bool
) -> tuple[Learner, dict]:
    """Make a DreamerV3 learner of this size, and a batch in main memory as replay gives it."""
    c, model, batch = make_model_and_batch(
        [preset, "dreamer3", *SHAPE, "replay.start=cold", f"run.precision={precision}"]
    )
    policy = build.make_policy(c, model, ACTION)
    assert policy is not None
    learner = Learner(model.to(device), c.optim, device, precision, policy.to(device))
    if not graphs:
        learner.step.recorder = None
    return learner, batch


def time_update(learner: Learner, batch: dict, updates: int) -> float:
    """Measure the wall-clock time per update, synchronised before and after many."""
    for _ in range(
        2 * learner.model.measure_every
    ):  # every kind of update was seen and captured by then
        learner.update(batch)
    synchronize(learner.device)
    began = time.perf_counter()
    for _ in range(updates):
        learner.update(batch)
    synchronize(learner.device)
    return (time.perf_counter() - began) / updates


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_kernels(learner: Learner, batch: dict, updates: int = 5) -> tuple[float, float]:
    """Measure kernels per update and their milliseconds per update; zeros on a CPU."""
    if learner.device.type == "cpu":
        return 0.0, 0.0
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(updates):
            learner.update(batch)
        synchronize(learner.device)
    events = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(events) / updates, sum(e.device_time_total for e in events) / updates / 1e3


def measure_peak(device: torch.device) -> float:
    """Measure the TFLOP/s of a large bf16 product, the most this device can do."""
    side = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = []
    for _ in range(7):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * side**3 / sorted(times)[3] / 1e12


def count_tflop(preset: str) -> float:
    """Count the TFLOP of one update, on a CPU."""
    learner, batch = make_learner(preset, torch.device("cpu"), "fp32", graphs=False)
    with FlopCounterMode(display=False) as counter:
        learner.loss(batch)[0].backward()
    return counter.get_total_flops() / 1e12


def measure(preset: str, device: torch.device, updates: int) -> dict[str, Entry]:
    """Measure all figures of one preset; updates without a graph are the baseline."""
    plain = time_update(*make_learner(preset, device, "bf16", graphs=False), max(2, updates // 4))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    learner, batch = make_learner(preset, device, "bf16", graphs=True)
    each = time_update(learner, batch, updates)
    launches, busy = measure_kernels(learner, batch)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    figures = {
        "updates": (1 / each, "1/s", 1 / plain),
        "kernels": (launches, "", None),
        "kernel time": (busy, "ms", each * 1e3),
        "memory": (memory, "GiB", None),
        "speed": (count_tflop(preset) / each, "TFLOP/s", measure_peak(device)),
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
    known = list_presets()
    unknown = [p for p in args.presets if p not in known]
    if unknown:
        sys.stderr.write(f"no preset called {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 2
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("this torch sees no GPU; --device cpu runs the same code without one\n")
        return 2
    from benchmarks.run import format_table

    runtime.configure_torch(0)
    results: dict[str, Entry] = {}
    for preset in args.presets:
        results |= measure(preset, torch.device(args.device), args.updates)
    print(format_table(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
