"""Train a world-model agent from pixels: python train.py [PRESET ...] [--a.b value ...]. Run it
again to resume.
"""

import contextlib
import os
import sys
from dataclasses import replace
from functools import partial

import envs
from worldmodel.config import loading as configs
from worldmodel.system.console import Progress, say, say_nothing
from worldmodel.system.cpu_cores import LoadMeter

USAGE = """python train.py [PRESET ...] [--section.key value ...]

Presets are layered left to right over configs/defaults.yaml: {presets}
Without a preset and without env.task it trains the preset quickstart: minutes on a CPU.
Example: python train.py planet --env.task dmc:cartpole_balance --run.seed 1
Running the same command again resumes the run; --run.fresh true starts over.
Several processes, GPUs or machines: torchrun --nproc-per-node N train.py ...; see docs/scaling.md.
"""


def main(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        say(USAGE.format(presets=", ".join(configs.presets())))
        return 0
    try:
        c = configs.parse(with_main_job(argv), envs.check_name)
    except configs.ConfigError as error:
        if (
            os.environ.get("LOCAL_RANK", "0") == "0"
        ):  # the others of this machine were given the same words
            sys.stderr.write(f"{error}\n")
        return 2

    try:
        others = LoadMeter()
        from worldmodel.programs.exit_codes import run_command  # torch is imported from here on
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was begun\n")
        return 130

    kept = "\nwhat the last checkpoint holds is kept; the same command goes on from there"
    code = run_command(lambda: train(c, argv, others), kept)
    if c.run.fresh and code not in (0, 2, 75) and os.environ.get("RANK", "0") == "0":
        sys.stderr.write(
            "--run.fresh true starts over whenever it is given; to go on, leave it out\n"
        )
    return code


def with_main_job(argv: list[str]) -> list[str]:
    """The preset quickstart where neither a preset nor a task is named."""
    names, overrides, _ = configs.split_arguments(argv)
    return argv if names or "env.task" in dict(overrides) else ["quickstart", *argv]


def train(c, words, others) -> int:
    from worldmodel import distributed
    from worldmodel.run_directory import RunDir
    from worldmodel.system import runtime
    from worldmodel.training.stop_request import Stop

    launch = distributed.Launch.from_environment(os.environ)
    run, device = RunDir.for_config(c), runtime.pick_rank_device(c.run, launch)
    world = distributed.join_ranks(launch, device)
    stop = Stop(world, c.run.max_minutes)
    distributed.check_same_config(world, c)
    with world, run:
        before = world.run_on_main(lambda: run.open(c, launch.restarts))
        run.check_shared()
        c = settled(c, before, world, others)
        runtime.configure_torch(c.run.threads)
        return trained(c, words, run, device, world, stop)


def trained(c, words, run, device, world, stop) -> int:
    """The whole training in a run directory that is open; the exit code."""
    from envs.parallel.vector import make_vector
    from worldmodel.evaluation.commands import closing
    from worldmodel.system import provenance
    from worldmodel.training import training_state
    from worldmodel.training.trainer import Training

    tell = say if world.main else say_nothing
    make = envs.configured(c.env, c.distract)
    patient = partial(make, patience=c.env.patience, floor=c.env.patience_floor)
    vector = partial(make_vector, timeout_s=c.env.timeout, restart_budget=c.env.restarts)
    playing = vector(partial(make, held_out=True), 1) if world.main else contextlib.nullcontext()
    with vector(patient, c.env.num) as collecting, playing as testing:
        t = Training(c, collecting, run, device, world)
        resumed = training_state.resume(t)
        if world.any(world.main and resumed and run.is_done(t.frames, c.run.frames)):
            tell(
                f"{run.path} is trained to {t.frames} frames; raise --run.frames to go on, or "
                f"start over with "
                "--run.fresh true"
            )
            return 0
        if world.main:
            run.record_start(c, t.frames)
            provenance.record_versions(run.path, words, t.frames)
        t.open_logger()
        tell(
            f"{'resuming' if resumed else 'training'} {c.env.task} in {run.path} on {device}: "
            f"{t.describe()}"
        )
        bar = Progress(c.run.frames, c.run.name, start=worked(t)[0], quiet=not world.main)

        def tick() -> None:
            done, bar.total = worked(t)
            bar.update(done, t.summary())

        while True:
            while t.updates_owed() > 0 and not stop:
                t.learn()
                tick()
            tick()
            if stop or t.frames >= c.run.frames:
                break
            if t.due.log:
                t.log()
            if t.due.eval and t.evaluate(testing, stop) is None:
                break
            if t.due.save:
                save(t)
            t.collect()
        save(t)
        bar.close()
        done = not stop and closing.finish(t, testing, stop)
        if world.main:
            run.write_status("done" if done else "stopped", t.frames)
            t.logger.close()
        if not done:
            without = " without --run.fresh" if c.run.fresh else ""
            tell(
                f"stopped{stop.why} at {t.frames} frames, all is saved; the same "
                f"command{without} goes on from here"
            )
    return 0 if done else 75


def worked(t) -> tuple[float, float]:
    """What has been done and, about, what is to be done in all: updates, which take the time, or
    frames without any.
    """
    train, done = t.c.train, t.learner.updates
    if not train.updates_per_step:
        return t.frames, t.c.run.frames
    owed, begun = (
        (max(0, t.updates_owed()), t.frames) if t.prefill.over else (train.pretrain, train.prefill)
    )
    steps = max(0, t.c.run.frames - max(t.frames, begun)) * t.steps / max(1, t.frames)
    return done, done + owed + steps * train.updates_per_step


def settled(c, before, world, others):
    """The same with what was left to choose: threads, and rank 0's renderer for all. A run keeps
    to both anywhere.
    """
    from envs.dmc.render import RENDERERS
    from worldmodel.system import runtime

    if world.size == 1:
        count = runtime.choose_threads(c.run.threads, before and before.run.threads, others)
        c = replace(c, run=replace(c.run, threads=count))
    chosen = world.run_on_main(lambda: envs.renderer(c.env, before and before.env))
    number = world.sum([RENDERERS.index(chosen) if world.main else 0])[0]
    return replace(c, env=replace(c.env, render=RENDERERS[number]))


def save(t) -> None:
    """A checkpoint, and a note that there is one."""
    from worldmodel.training import training_state

    training_state.save(t)
    if t.world.main:
        t.run.record_checkpoint(t.frames)


def leave(code: int) -> None:
    """End the process; a rank at once, since threads of torch.distributed may not outlive the
    interpreter in peace.
    """
    if os.environ.get("RANK"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    leave(main(sys.argv[1:]))
