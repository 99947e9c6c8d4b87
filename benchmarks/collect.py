"""Agent steps per second: of the environment alone, and with model, policy and replay."""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np
import torch
from worldmodel.envs.parallel.vector import make_vector

from benchmarks.compute import make_model_and_batch
from benchmarks.render import list_usable_renderers
from worldmodel import build, envs
from worldmodel.config import loading
from worldmodel.replay.buffer import Replay
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.rollout.collector import Rollout, convert_spaces, make_episode_seeds
from worldmodel.rollout.player import Player
from worldmodel.spaces import Batch
from worldmodel.system import runtime
from worldmodel.training.learner import Learner

TASK, REPEAT = "dmc:walker_walk", 2
AGENTS = {"laptop": ["laptop", "walker"], "small": ["small"]}
Entry = dict[str, float | str | None]


class Collector:
    """The collecting half of a run, with an untrained actor."""

    def __init__(self, presets: list[str], render: str, count: int = 1):
        c = loading.parse([*presets, "behavior.name=actor_critic", "replay.codec=zstd"])
        make = partial(envs.make, TASK, size=(64, 64), repeat=REPEAT, render=render)
        self.envs = make_vector(make, count)
        observation, space = convert_spaces(self.envs)
        model = build.make_model(c, observation, space)
        policy = build.make_policy(c, model, space)
        agent = build.make_agent(c, model, space, torch.device("cpu"), policy)
        self.config, self.model, self.policy = c, model, policy
        self.player = Player(agent, count, "train", runtime.make_generator(0))
        generator = np.random.default_rng(0)
        self.random = lambda rows: generator.uniform(-1, 1, (len(rows), space.size))
        self.rollout = Rollout(self.envs, space, make_episode_seeds(0))
        self.replay = Replay(
            build.make_replay_spec(observation, space),
            capacity_bytes=10**9,
            store="ram",
            codec="zstd",
            directory=None,
            num_streams=count,
            seed=0,
            sampler=Uniform(),
        )

    def measure_collection(self, steps: int) -> float:
        """Measure the steps per second of the whole loop."""
        began = time.perf_counter()
        for _ in range(steps):
            self.replay.add(0, self.rollout.step(self.player)[0])
        return steps / (time.perf_counter() - began)

    def measure_stepping(self, steps: int) -> float:
        """Measure the steps per second with random actions and without replay."""
        began = time.perf_counter()
        for _ in range(steps):
            self.rollout.step(self.random)
        return steps / (time.perf_counter() - began)

    def measure_learning(
        self, learner: Learner, batch: Batch, updates: int, overlapped: bool
    ) -> float:
        """Measure updates per second with a step of every environment after each update.

        With `overlapped` the environments work while the model learns.
        """
        began = time.perf_counter()
        for _ in range(updates):
            for stream, row in enumerate(self.rollout.step(self.player)):
                self.replay.add(stream, row)
            if overlapped:
                self.rollout.begin()
            learner.update(batch)
        return updates / (time.perf_counter() - began)


def measure_overlap(rounds: int = 5, updates: int = 10) -> dict[str, Entry]:
    """Measure updates with four environment processes; the baseline does not overlap them."""
    found: dict[str, Entry] = {}
    _, _, batch = make_model_and_batch(AGENTS["laptop"])
    for name in list_usable_renderers():
        c = Collector(AGENTS["laptop"], name, 4)
        learner = Learner(c.model, c.config.optim, torch.device("cpu"), "bf16", c.policy)
        rates = [
            [c.measure_learning(learner, batch, updates, together) for together in (True, False)]
            for _ in range(rounds + 1)
        ]
        c.envs.close()
        together, apart = (statistics.median(each) for each in zip(*rates[1:], strict=True))
        found[f"overlap.{name}"] = {"value": together, "unit": "updates/s", "baseline": apart}
    return found


def measure(rounds: int = 5, steps: int = 100) -> dict[str, Entry]:
    """Measure medians of interleaved rounds; the baseline is the same agent with renderer `gl`."""
    made = {
        (agent, name): Collector(presets, name)
        for agent, presets in AGENTS.items()
        for name in list_usable_renderers()
    }
    rates: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for (agent, name), collector in made.items():
            rates.setdefault(f"collect.{agent}.{name}", []).append(
                collector.measure_collection(steps)
            )
            if agent == "small":  # the environment does not depend on the agent
                rates.setdefault(f"collect.environment.{name}", []).append(
                    collector.measure_stepping(steps)
                )
    for collector in made.values():
        collector.envs.close()
    # The first round is a warm-up.
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
