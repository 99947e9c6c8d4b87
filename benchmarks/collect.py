"""Agent steps per second with one environment: simulate and draw alone, then filter, act and remember as well."""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np
import torch

import envs
from envs.vector import Reset, make_vector
from worldmodel import build, config, runtime
from worldmodel.player import Player
from worldmodel.replay import Replay
from worldmodel.rollout import Rollout, episode_seeds, spaces_of

TASK, REPEAT = "dmc:walker_walk", 2
AGENTS = {"laptop": ["laptop", "walker"], "small": ["small"]}
Entry = dict[str, float | str | None]


class Collector:
    """A run's collecting half with an actor that was never trained."""

    def __init__(self, presets: list[str], render: str):
        c = config.parse([*presets, "behavior.name=actor_critic", "replay.codec=zstd"])
        make = partial(envs.make, TASK, size=(64, 64), repeat=REPEAT, render=render)
        self.envs = make_vector(make, 1)
        observation, space = spaces_of(self.envs)
        model = build.make_model(c, observation, space)
        agent = build.make_agent(c, model, space, torch.device("cpu"), build.make_policy(c, model, space))
        self.player = Player(agent, 1, "train", runtime.seeded(0))
        generator = np.random.default_rng(0)
        self.random = lambda rows: generator.uniform(-1, 1, (len(rows), space.size))
        self.rollout = Rollout(self.envs, Reset, space, episode_seeds(0))
        self.replay = Replay(build.replay_spec(observation, space), capacity_bytes=10**9, store="ram", codec="zstd",
                             directory=None, num_streams=1, seed=0)  # fmt: skip

    def collecting(self, steps: int) -> float:
        """Steps per second of the whole loop."""
        began = time.perf_counter()
        for _ in range(steps):
            self.replay.add(0, self.rollout.step(self.player)[0])
        return steps / (time.perf_counter() - began)

    def stepping(self, steps: int) -> float:
        """Steps per second where actions are random and nothing is kept."""
        began = time.perf_counter()
        for _ in range(steps):
            self.rollout.step(self.random)
        return steps / (time.perf_counter() - began)


def bench(rounds: int = 5, steps: int = 100) -> dict[str, Entry]:
    """Medians of interleaved rounds; the baseline is the same agent with the standard picture (`gl`)."""
    from benchmarks.render import usable

    made = {(agent, name): Collector(presets, name) for agent, presets in AGENTS.items() for name in usable()}
    rates: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for (agent, name), collector in made.items():
            rates.setdefault(f"collect.{agent}.{name}", []).append(collector.collecting(steps))
            if agent == "small":  # the environment is the same whoever acts
                rates.setdefault(f"collect.environment.{name}", []).append(collector.stepping(steps))
    for collector in made.values():
        collector.envs.close()
    medians = {name: statistics.median(each[1:]) for name, each in rates.items()}  # the first round warms up
    task = TASK.removeprefix("dmc:")
    return {
        f"{name}.{task}": {"value": rate, "unit": "steps/s", "baseline": medians.get(name.rpartition(".")[0] + ".gl")}
        for name, rate in medians.items()
    }
