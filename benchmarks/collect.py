"""Agent steps per second while collecting with one environment: simulate, draw, filter, act, remember."""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch

import envs
from envs.vector import Reset, make_vector
from worldmodel import build, config, runtime
from worldmodel.player import Player
from worldmodel.replay import Replay
from worldmodel.rollout import Rollout, episode_seeds, spaces_of

TASK, REPEAT = "dmc:walker_walk", 2
Entry = dict[str, float | str | None]


class Collector:
    """A run's collecting half with an actor of the preset that was never trained."""

    def __init__(self, preset: str, render: str):
        c = config.parse([preset, "behavior.name=actor_critic", "replay.codec=zstd"])
        make = partial(envs.make, TASK, size=(64, 64), repeat=REPEAT, render=render)
        self.envs = make_vector(make, 1)
        observation, space = spaces_of(self.envs)
        model = build.make_model(c, observation, space)
        agent = build.make_agent(c, model, space, torch.device("cpu"), build.make_policy(c, model, space))
        self.player = Player(agent, 1, "train", runtime.seeded(0))
        self.rollout = Rollout(self.envs, Reset, space, episode_seeds(0))
        self.replay = Replay(build.replay_spec(observation, space), capacity_bytes=10**9, store="ram", codec="zstd",
                             directory=None, num_streams=1, seed=0)  # fmt: skip

    def rate(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            self.replay.add(0, self.rollout.step(self.player)[0])
        return steps / (time.perf_counter() - began)


def bench(preset: str = "small", rounds: int = 5, steps: int = 100) -> dict[str, Entry]:
    """Medians of interleaved rounds; the baseline is the same agent with the standard picture (`gl`)."""
    from benchmarks.render import usable

    made = {name: Collector(preset, name) for name in usable()}
    rates: dict[str, list[float]] = {name: [] for name in made}
    for collector in made.values():
        collector.rate(steps // 2)
    for _ in range(rounds):
        for name, collector in made.items():
            rates[name].append(collector.rate(steps))
    for collector in made.values():
        collector.envs.close()
    medians = {name: statistics.median(each) for name, each in rates.items()}
    task = TASK.removeprefix("dmc:")
    return {
        f"collect.{name}.{task}": {"value": rate, "unit": "steps/s", "baseline": medians.get("gl")}
        for name, rate in medians.items()
    }
