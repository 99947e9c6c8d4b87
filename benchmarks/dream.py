"""Steps per second of dreams by batch: python -m benchmarks.dream RUN [--threads N] [--obs ...]

`--parts` times the parts of a step instead, and a matrix product as a bound.

One DreamEnv and DreamVectorEnv of several sizes take turns, so that other programs slow all of
them alike. Each figure is the median over the turns of environment steps per second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
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


def time_call(function) -> float:
    """Milliseconds, the median of 20 calls."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


@torch.no_grad()
def measure_parts(env) -> dict[str, float]:
    """Milliseconds of a step and of its parts, of one environment or of many."""
    action, dream = env.action_space.sample(), env.dream
    model, states = dream.model, dream.states
    rows = np.asarray(action if hasattr(env, "num_envs") else [action])
    vectors, feat = dream.run.action_space.encode_actions(rows), model.dynamics.features(states)
    parts = {
        "transition": lambda: model.dynamics.imagine_step(states, vectors, dream.generator),
        "reward and end": lambda: model.predict_for_planning(feat),
        "observation": dream.observe,
        "whole step": lambda: env.step(action),
    }
    return {name: time_call(part) for name, part in parts.items()}


def measure_product(size: int = 512) -> float:
    """GFLOP/s of a square matrix product."""
    x, y = torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / time_call(lambda: torch.mm(x, x, out=y)) / 1e6


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--obs", default="pixels")
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="of one DreamEnv in a turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--out", type=Path, help="append a line of JSON per batch")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    run = worldmodel.load(args.run, args.device)
    single = worldmodel.DreamEnv(run, args.obs, args.horizon)
    vectors = {n: worldmodel.DreamVectorEnv(run, n, args.obs, args.horizon) for n in args.batches}
    for env in (single, *vectors.values()):
        env.reset(seed=0)
    if args.parts:
        for name, env in {"DreamEnv": single, **vectors}.items():
            found = {k: round(v, 2) for k, v in measure_parts(env).items()}
            print(f"{name:>8}  {found} ms")
        print(f"matrix product: {measure_product():.0f} GFLOP/s")
        return
    rates: dict[str, list[float]] = {"DreamEnv": [], **{str(n): [] for n in vectors}}
    for turn in range(args.turns + 1):
        found = {"DreamEnv": time_single(single, args.steps)}
        for n, envs in vectors.items():
            found[str(n)] = time_vector(envs, max(5, 4 * args.steps // n))
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
