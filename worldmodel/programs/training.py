"""A training, assembled: ranks, run directory, environments, trainer and progress bar."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from worldmodel import build, distributed
from worldmodel.config.schema import Config, plans_in_simulator
from worldmodel.distributed import ALONE, World
from worldmodel.errors import UsageError
from worldmodel.model.dynamics import Simulator
from worldmodel.packing import file_list, golden_output, model_card
from worldmodel.programs import closing_evaluation, time_budget
from worldmodel.programs.environments import Environments
from worldmodel.run_directory import RunDir
from worldmodel.system import provenance, runtime, stop_request, trusted_code
from worldmodel.system.console import Progress, say, say_nothing
from worldmodel.system.cpu_cores import LoadMeter
from worldmodel.system.process_start import use_default_signals
from worldmodel.system.stop_request import Stop
from worldmodel.training.trainer import Trainer


class Session:
    """A training that is under way: the trainer, the environment it is tested in, the request to
    stop, and the progress bar.
    """

    def __init__(self, trainer: Trainer, test_env: Any, stop: Stop):
        self.trainer, self.test_env, self.stop = trainer, test_env, stop
        self.is_main = trainer.world.main
        self.say = say if self.is_main else say_nothing
        run = trainer.config.run
        done = trainer.estimate_progress()[0]
        self.bar = Progress(run.frames, run.name, start=done, quiet=not self.is_main)

    @property
    def is_over(self) -> bool:
        """Whether all frames are collected or a stop is asked for."""
        return bool(self.stop) or self.trainer.frames >= self.trainer.config.run.frames

    def show_progress(self) -> None:
        done, self.bar.total = self.trainer.estimate_progress()
        self.bar.update(done, self.trainer.format_progress())

    def evaluate(self) -> bool:
        """Play test episodes; False if a stop cut them short."""
        return self.trainer.evaluate(self.test_env, self.stop) is not None

    def finish(self) -> int:
        """Evaluate for the last time, unless stopped, and return the exit code."""
        trainer = self.trainer
        self.bar.close()
        done = not self.stop and closing_evaluation.evaluate_finished_run(
            trainer, self.test_env, self.stop
        )
        if self.is_main:
            trainer.run.write_status("done" if done else "stopped", trainer.frames)
            trainer.logger.close()
        if done:
            return 0
        without = " without --run.fresh" if trainer.config.run.fresh else ""
        self.say(
            f"stopped{self.stop.why} at {trainer.frames} frames, all is saved; the same "
            f"command{without} goes on from here"
        )
        return 75


@contextlib.contextmanager
def open_training(
    config: Config, words: Sequence[str], environments: Environments, load: LoadMeter
) -> Iterator[Session | None]:
    """Begin or resume the training of a configuration; None if it is done already.

    `words` are those of the command line, for the record. `load` has been measured since before
    torch was imported.
    """
    build.check_log_packages(config)
    launch = distributed.Launch.from_environment(os.environ)
    run, device = RunDir.for_config(config), runtime.pick_rank_device(config.run, launch)
    # The wait for other ranks is none of Python's: a handler would be called minutes later.
    with use_default_signals() if launch.size > 1 else contextlib.nullcontext():
        world = distributed.join_ranks(launch, device)
    stop = stop_request.Stop(world, config.run.max_minutes)
    distributed.check_same_config(world, config)
    with world, run:
        before = world.run_on_main(lambda: run.open(config, launch.restarts))
        run.check_shared()
        stop.check_start()
        config = fill_in_choices(config, before, world, environments, load)
        runtime.configure_torch(config.run.threads)
        config = spend_budget(config, before, world, environments, device)
        # Before the environments, so that one whose state cannot be set is refused in one line
        simulator = make_simulator(config, environments)
        with open_environments(config, world, environments) as (envs, test_env):
            stop.check_start()
            trainer = Trainer(config, envs, run, device, world, simulator)
            stop.check_start()
            resumed = trainer.resume()
            stop.check_start()
            env = config.env
            if world.main and (
                environments.names_code(env.task) or environments.may_name_code(env.kwargs)
            ):
                trusted_code.sign_code(run.path, config)
            if world.any(
                world.main and resumed and run.is_done(trainer.frames, config.run.frames)
            ):
                tell_done(trainer)
                yield None
                return
            if world.main:
                discard_packing(run)
                run.record_start(config, trainer.frames)
                provenance.record_versions(run.path, words, trainer.frames)
                trainer.open_logger()
            session = Session(trainer, test_env, stop)
            session.say(
                f"{'resuming' if resumed else 'training'} {config.env.task} in {run.path} on "
                f"{device}: {trainer.describe()}"
            )
            yield session


def discard_packing(run: RunDir) -> None:
    """Make a packed run an ordinary one, because training changes the files that it lists."""
    if file_list.is_packed(run.path):
        for name in (file_list.NAME, golden_output.NAME, model_card.NAME):
            (run.path / name).unlink(missing_ok=True)


def fill_in_choices(
    config: Config,
    before: Config | None,
    world: World,
    environments: Environments,
    load: LoadMeter,
) -> Config:
    """Fill in the number of threads and, on all ranks alike, the renderer.

    A resumed run keeps those it began with, whatever the machine.
    """
    if world.size == 1:
        threads_before = before.run.threads if before else None
        count = runtime.choose_threads(config.run.threads, threads_before, load)
        config = replace(config, run=replace(config.run, threads=count))
    env_before = before.env if before else None
    chosen = world.run_on_main(lambda: environments.choose_renderer(config.env, env_before))
    renderer = world.gather(chosen)[0]
    return replace(config, env=replace(config.env, render=renderer))


def spend_budget(
    config: Config,
    before: Config | None,
    world: World,
    environments: Environments,
    device: torch.device,
) -> Config:
    """Choose run.frames by train.budget, if there is one; a resumed run keeps its choice."""
    if not config.train.budget:
        return config
    if before and before.train.budget == config.train.budget:
        return replace(config, run=replace(config.run, frames=before.run.frames))
    if world.size > 1:
        raise UsageError("train.budget: only one process measures its speed; give run.frames")
    config, choice = plan_training(config, environments, device)
    say(choice)
    return config


def plan_training(
    config: Config, environments: Environments, device: torch.device
) -> tuple[Config, str]:
    """Measure this machine's speed and choose run.frames by train.budget; and say why."""
    simulator = make_simulator(config, environments)
    with open_environments(config, ALONE, environments) as (envs, _):
        speed = time_budget.measure_speed(config, envs, device, simulator)
    facts = environments.describe_task(config.env)
    frames, work = time_budget.choose_frames(config, speed, facts.episode_frames)
    choice = time_budget.describe_choice(config, frames, work, speed)
    return replace(config, run=replace(config.run, frames=frames)), choice


def show_plan(config: Config, environments: Environments, load: LoadMeter) -> int:
    """Say what a training by train.budget would do, and train nothing; the exit code."""
    config = fill_in_choices(config, None, ALONE, environments, load)
    runtime.configure_torch(config.run.threads)
    device = runtime.pick_device(config.run.device)
    say(plan_training(config, environments, device)[1])
    return 0


def make_simulator(config: Config, environments: Environments) -> Simulator | None:
    """The true simulator, of a run that plans in it."""
    wanted = plans_in_simulator(config)
    return environments.make_simulator(config.env, trust=True) if wanted else None


@contextlib.contextmanager
def open_environments(
    config: Config, world: World, environments: Environments
) -> Iterator[tuple[Any, Any]]:
    """Make the environments of this rank and, on rank 0, one to test in."""
    env = config.env
    # The command line named this task; a resumed run that was saved with another is refused.
    make = environments.make_factory(
        env, config.distract, trust=True, simulator=plans_in_simulator(config)
    )
    make_vector = partial(
        environments.make_vector, timeout_s=env.timeout, restart_budget=env.restarts
    )
    collecting = partial(make, patience=env.patience, floor=env.patience_floor)
    test_env = (
        make_vector(partial(make, held_out=True), 1) if world.main else contextlib.nullcontext()
    )
    with make_vector(collecting, env.num) as envs, test_env as test:
        yield envs, test


def tell_done(trainer: Trainer) -> None:
    if trainer.world.main:
        say(
            f"{trainer.run.path} is trained to {trainer.frames} frames; raise --run.frames to go "
            "on, or start over with --run.fresh true"
        )
