"""A training of a given time: how many frames this machine can spend it on."""

from __future__ import annotations

import bisect
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worldmodel.config.ranges import read_seconds
from worldmodel.config.schema import Config
from worldmodel.errors import UsageError
from worldmodel.model.dynamics import Simulator
from worldmodel.rollout.collector import VectorEnv
from worldmodel.run_directory import RunDir
from worldmodel.system.console import format_duration
from worldmodel.training.trainer import Trainer, count_scheduled_updates, schedules_updates

MEASURED_S = 3.0  # seconds that each kind of work is measured for, at least
WARM_UP = 3  # times that it is done before
LONGEST = 10**9  # frames
EPISODE = 1000  # frames of a test episode without a known limit
MARGIN = 0.95  # share of the time that is planned; saving and logging take the rest


@dataclass(frozen=True)
class Speed:
    """Seconds that a step of all environments, an update, and one of the policy alone take."""

    step: float
    update: float = 0.0
    policy_update: float = 0.0


def measure_speed(
    config: Config, envs: VectorEnv, device: torch.device, simulator: Simulator | None
) -> Speed:
    """Collect and learn for some seconds with a trainer that is thrown away."""
    early = replace(config, train=replace(config.train, prefill=1))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(early, envs, RunDir(Path(folder)), device, simulator=simulator)
        while not trainer.prefill.over:
            trainer.collect()
        speed = Speed(measure_seconds(trainer.collect))
        trainer.frames = LONGEST  # schedules that make updates longer have ended
        if trainer.learner.optimizers.parameters:
            speed = replace(speed, update=measure_seconds(trainer.learn))
        if trainer.learner.trains_apart:
            speed = replace(speed, policy_update=measure_seconds(trainer.learn_policy))
    return speed


def measure_seconds(work: Callable[[], None]) -> float:
    """The mean seconds of doing something again and again."""
    for _ in range(WARM_UP):
        work()
    begun, count = time.monotonic(), 0
    while time.monotonic() < begun + MEASURED_S:
        work()
        count += 1
    return (time.monotonic() - begun) / count


@dataclass(frozen=True)
class Work:
    """What a training of so many frames does."""

    steps: float  # of all environments at once, the test episodes' included
    updates: int
    policy_updates: int

    def estimate_seconds(self, speed: Speed) -> float:
        learning = self.updates * speed.update + self.policy_updates * speed.policy_update
        return self.steps * speed.step + learning


def count_work(config: Config, frames: int, episode_frames: int) -> Work:
    """Count what a training of so many frames does, when test episodes have `episode_frames`."""
    train, log = config.train, config.log
    steps = frames / config.env.repeat
    learning = max(0, frames - train.prefill) / config.env.repeat
    updates = 0
    if schedules_updates(train):
        updates = train.pretrain + count_scheduled_updates(train, learning)
    episodes = log.final_episodes + (frames // log.eval * log.episodes if log.eval else 0)
    return Work(
        steps / config.env.num + episodes * episode_frames / config.env.repeat,
        updates,
        int(learning * train.policy_updates_per_step),
    )


def choose_frames(config: Config, speed: Speed, episode_frames: int | None) -> tuple[int, Work]:
    """The most frames that train.budget is enough for, and the work that they are."""
    budget = MARGIN * (read_seconds(config.train.budget) or 0)

    def count(frames: int) -> Work:
        return count_work(config, frames, episode_frames or EPISODE)

    least = config.train.prefill + config.env.repeat * config.env.num
    frames = range(least, LONGEST)
    fitting = bisect.bisect_right(frames, budget, key=lambda n: count(n).estimate_seconds(speed))
    if not fitting:
        needed = count(least).estimate_seconds(speed) / MARGIN
        raise UsageError(
            f"train.budget: {config.train.budget} is too short here: the first {least} frames, "
            f"the updates right after them and the closing evaluation take "
            f"{format_duration(needed)}; give more, or lower train.prefill, train.pretrain or "
            f"log.final_episodes"
        )
    chosen = frames[fitting - 1]
    return chosen, count(chosen)


def describe_choice(config: Config, frames: int, work: Work, speed: Speed) -> str:
    """What a training of this budget will do, in one line."""
    update = f" and an update {speed.update:.3g} s" * bool(speed.update)
    return (
        f"budget {config.train.budget}: run.frames {frames}, {work.updates} updates, about "
        f"{format_duration(work.estimate_seconds(speed))} (a step takes {speed.step:.3g} s"
        f"{update} here)"
    )
