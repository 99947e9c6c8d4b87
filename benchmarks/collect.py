"""Agent steps per second with one environment: simulate and draw alone, then filter, act and
remember as well.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np
import torch

import envs
from benchmarks.compute import parts
from benchmarks.render import usable
from envs.parallel.vector import make_vector
from worldmodel import build
from worldmodel.config import loading
from worldmodel.replay.buffer import Replay
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.rollout.collector import Rollout, episode_seeds, spaces_of
from worldmodel.rollout.player import Player
from worldmodel.spaces import Batch
from worldmodel.system import runtime
from worldmodel.training.learner import Learner

TASK, REPEAT = "dmc:walker_walk", 2
AGENTS = {"laptop": ["laptop", "walker"], "small": ["small"]}
Entry = dict[str, float | str | None]


class Collector:
    """A run's collecting half with an actor that was never trained."""

    def __init__(self, presets: list[str], render: str, count: int = 1):
        c = loading.parse([*presets, "behavior.name=actor_critic", "replay.codec=zstd"])
        make = partial(envs.make, TASK, size=(64, 64), repeat=REPEAT, render=render)
        self.envs = make_vector(make, count)
        observation, space = spaces_of(self.envs)
        model = build.make_model(c, observation, space)
        policy = build.make_policy(c, model, space)
        agent = build.make_agent(c, model, space, torch.device("cpu"), policy)
        self.config, self.model, self.policy = c, model, policy
        self.player = Player(agent, count, "train", runtime.make_generator(0))
        generator = np.random.default_rng(0)
        self.random = lambda rows: generator.uniform(-1, 1, (len(rows), space.size))
        self.rollout = Rollout(self.envs, space, episode_seeds(0))
        self.replay = Replay(
            build.replay_spec(observation, space),
            capacity_bytes=10**9,
            store="ram",
            codec="zstd",
            directory=None,
            num_streams=count,
            seed=0,
            sampler=Uniform(),
        )

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

    def learning(self, learner: Learner, batch: Batch, updates: int, overlapped: bool) -> float:
        """Updates per second with a step of every environment between two, taken while learning or
        after it.
        """
        began = time.perf_counter()
        for _ in range(updates):
            for stream, row in enumerate(self.rollout.step(self.player)):
                self.replay.add(stream, row)
            if overlapped:
                self.rollout.begin()
            learner.update(batch)
        return updates / (time.perf_counter() - began)


def overlap(rounds: int = 5, updates: int = 10) -> dict[str, Entry]:
    """Four environments in processes of their own beside a learner; the baseline makes them wait
    for it.
    """
    found: dict[str, Entry] = {}
    _, _, batch = parts(AGENTS["laptop"])
    for name in usable():
        c = Collector(AGENTS["laptop"], name, 4)
        learner = Learner(c.model, c.config.optim, torch.device("cpu"), "bf16", c.policy)
        rates = [
            [c.learning(learner, batch, updates, together) for together in (True, False)]
            for _ in range(rounds + 1)
        ]
        c.envs.close()
        together, apart = (statistics.median(each) for each in zip(*rates[1:], strict=True))
        found[f"overlap.{name}"] = {"value": together, "unit": "updates/s", "baseline": apart}
    return found


def bench(rounds: int = 5, steps: int = 100) -> dict[str, Entry]:
    """Medians of interleaved rounds; the baseline is the same agent with the standard picture
    (`gl`).
    """
    made = {
        (agent, name): Collector(presets, name)
        for agent, presets in AGENTS.items()
        for name in usable()
    }
    rates: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for (agent, name), collector in made.items():
            rates.setdefault(f"collect.{agent}.{name}", []).append(collector.collecting(steps))
            if agent == "small":  # the environment is the same whoever acts
                rates.setdefault(f"collect.environment.{name}", []).append(
                    collector.stepping(steps)
                )
    for collector in made.values():
        collector.envs.close()
    # The first round warms up
    medians = {name: statistics.median(each[1:]) for name, each in rates.items()}
    task = TASK.removeprefix("dmc:")
    return {
        f"{name}.{task}": {
            "value": rate,
            "unit": "steps/s",
            "baseline": medians.get(name.rpartition(".")[0] + ".gl"),
        }
        for name, rate in medians.items()
    }
