"""Steps per second of dreams by batch: python benchmarks/dream.py RUN [--threads N] [--obs ...]

One DreamEnv and DreamVectorEnv of several sizes take turns, so that other programs slow all of
them alike. Each figure is the median over the turns of environment steps per second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import worldmodel


def time_single(env, steps: int) -> float:
    """Steps per second of one environment."""
    action = env.action_space.sample()
    began = time.perf_counter()
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - began)


def time_vector(envs, steps: int) -> float:
    """Steps per second of all environments together."""
    actions = envs.action_space.sample()
    began = time.perf_counter()
    for _ in range(steps):
        envs.step(actions)
    return steps * envs.num_envs / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--obs", default="pixels")
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="append a line of JSON per batch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = worldmodel.load(args.run, args.device)
    single = worldmodel.DreamEnv(run, args.obs, args.horizon)
    vectors = {n: worldmodel.DreamVectorEnv(run, n, args.obs, args.horizon) for n in args.batches}
    for env in (single, *vectors.values()):
        env.reset(seed=0)
    rates: dict[str, list[float]] = {"DreamEnv": [], **{str(n): [] for n in vectors}}
    for turn in range(args.turns + 1):
        found = {"DreamEnv": time_single(single, 100)}
        for n, envs in vectors.items():
            found[str(n)] = time_vector(envs, max(5, 400 // n))
        if turn:  # the first one reads the replay
            for name, rate in found.items():
                rates[name].append(rate)
    base = statistics.median(rates["DreamEnv"])
    for name, values in rates.items():
        rate = statistics.median(values)
        times = statistics.median(v / b for v, b in zip(values, rates["DreamEnv"], strict=True))
        print(f"{name:>8}  {rate:9.0f} steps/s  {times:5.1f} x (median of turns; base {base:.0f})")
        if args.out:
            line = {
                "envs": name,
                "obs": args.obs,
                "horizon": args.horizon,
                "threads": args.threads,
                "device": args.device,
                "steps_per_s": round(rate),
                "times_one": round(times, 2),
                "turns": args.turns,
            }
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
