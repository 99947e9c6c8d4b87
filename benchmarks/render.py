"""Frames per second of the three renderers, in interleaved runs over the same scenes."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from worldmodel.envs.dmc.render import RendererError, choose_renderer
from worldmodel.envs.dmc.suite import DMC

from worldmodel import envs

TASKS = ("walker_walk",)
RENDERERS = ("gl", "fast", "ray")


def measure(tasks: tuple[str, ...] = TASKS, seconds: float = 6.0) -> dict[str, dict[str, Any]]:
    """Measure {"render.<renderer>.<task>": entry}; the baseline is gl, if it works."""
    results = {}
    for task in tasks:
        rates = _measure_renderers(task, seconds / len(tasks))
        baseline = rates.get("gl")
        for name, rate in rates.items():
            results[f"render.{name}.{task}"] = {
                "value": rate,
                "unit": "frames/s",
                "baseline": baseline,
            }
    return results


def measure_distract(rounds: int = 50) -> dict[str, dict[str, Any]]:
    """Measure a step with a moving background; the baseline is the same step without."""
    made = {name: envs.make(name) for name in ("distract:pointmass", "pointmass")}
    times: dict[str, list[float]] = {name: [] for name in made}
    for env in made.values():
        env.reset(seed=0)
    for _ in range(rounds):
        for name, env in made.items():
            action = np.zeros(2, np.float32)
            start = time.perf_counter()
            env.step(action)
            times[name].append(time.perf_counter() - start)
    both = {name: 1e3 * statistics.median(each) for name, each in times.items()}
    return {
        "distract.step": {
            "value": both["distract:pointmass"],
            "unit": "ms",
            "baseline": both["pointmass"],
        }
    }


def measure_builtin_tasks(rounds: int = 15, steps: int = 60) -> dict[str, dict[str, Any]]:
    """Measure steps per second of the built-in tasks with pictures; the baseline is `counter`."""
    made = {name: envs.make(name) for name in ("counter", *envs.TASKS)}
    rates: dict[str, list[float]] = {name: [] for name in made}
    for i in range(rounds):
        for name, env in made.items():
            env.reset(seed=i)
            action = env.action_space.sample()
            start = time.perf_counter()
            taken = 1 + next(
                i for i in range(steps) if any(env.step(action)[2:4]) or i == steps - 1
            )
            rates[name].append(taken / (time.perf_counter() - start))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    entry = {"unit": "steps/s", "baseline": medians["counter"]}
    return {f"builtin.{name}": {"value": medians[name], **entry} for name in envs.TASKS}


def _measure_renderers(task: str, seconds: float) -> dict[str, float]:
    """Measure the median rate of each renderer that works here."""
    drawn = {name: DMC(task, render=name) for name in list_usable_renderers()}
    for env in drawn.values():
        env.reset(seed=0)
        env.render()
    rates: dict[str, list[float]] = {name: [] for name in drawn}
    generators = {name: np.random.default_rng(0) for name in drawn}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates["ray"]) < 3:
        for name, env in drawn.items():
            rates[name].append(_measure_round(env, generators[name]))
    for env in drawn.values():
        env.close()
    return {name: statistics.median(each) for name, each in rates.items()}


def list_usable_renderers() -> list[str]:
    """List the renderers that this machine can run."""
    try:
        choose_renderer("gl")
    except RendererError:
        return ["ray"]
    return list(RENDERERS)


def _measure_round(env: DMC, generator: np.random.Generator, frames: int = 10) -> float:
    """Measure frames/s over a few frames, of the drawing without the simulation."""
    spent = 0.0
    for _ in range(frames):
        action = generator.uniform(-1, 1, env.action_space.shape)
        if env.over:
            env.reset(seed=0)
        env.advance(action)
        start = time.perf_counter()
        env.render()
        spent += time.perf_counter() - start
    return frames / spent
