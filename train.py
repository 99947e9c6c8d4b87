"""Train a world-model agent from pixels: python train.py [PRESET ...] [--a.b value ...]. Run it again to resume."""

import os
import sys
from functools import partial

import envs
from worldmodel import config as configs
from worldmodel.console import Progress, say

USAGE = """python train.py [PRESET ...] [--section.key value ...]

Presets are layered left to right over configs/defaults.yaml: {presets}
Where neither a preset nor env.task is named it takes the preset quickstart, a first skill in minutes on a CPU.
Example: python train.py planet --env.task dmc:cartpole_balance --run.seed 1
Running the same command again resumes the run; --run.fresh true starts over."""


def main(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        say(USAGE.format(presets=", ".join(configs.presets())))
        return 0
    try:
        c = configs.parse(with_main_job(argv), envs.check_name)
    except configs.ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2

    from worldmodel.guard import guarded  # torch is imported from here on

    return guarded(lambda: train(c))


def with_main_job(argv: list[str]) -> list[str]:
    """The preset quickstart where neither a preset nor a task is named."""
    names, overrides, _ = configs.split_arguments(argv)
    return argv if names or "env.task" in dict(overrides) else ["quickstart", *argv]


def train(c) -> int:
    from envs.vector import Reset, make_vector
    from worldmodel import runtime
    from worldmodel.evaluation import closing
    from worldmodel.rundir import RunDir
    from worldmodel.training import Stop, Training

    run, stop = RunDir.of(c), Stop()
    device = runtime.setup(c.run)
    run.open(c)
    make = partial(envs.make, c.env.task, size=tuple(c.env.size), repeat=c.env.repeat, time_limit=c.env.time_limit,
                   obs=c.env.obs, render=c.env.render, camera=c.env.camera)  # fmt: skip
    patient = partial(make, patience=c.env.patience, floor=c.env.patience_floor)
    vector = partial(make_vector, timeout_s=c.env.timeout, restart_budget=c.env.restarts)
    with run, vector(patient, c.env.num) as collecting, vector(make, 1) as testing:
        t = Training(c, collecting, Reset, run, device)
        resumed = t.resume()
        if resumed and run.is_done(t.rollout.frames, c.run.frames):
            say(f"{run.path} is trained to {t.rollout.frames} frames; raise --run.frames to go on, or start over with "
                "--run.fresh true")  # fmt: skip
            return 0
        run.begin(c)
        t.open_logger()
        say(f"{'resuming' if resumed else 'training'} {c.env.task} in {run.path} on {device}: {t.describe()}")
        bar = Progress(c.run.frames, c.run.name, start=t.rollout.frames)

        while True:
            t.learn_what_is_owed(stop)
            bar.update(t.rollout.frames, t.summary())
            if stop or t.rollout.frames >= c.run.frames:
                break
            if t.due.log:
                t.log()
            if t.due.eval and t.evaluate(testing, Reset, stop) is None:
                break
            if t.due.save:
                t.save()
            t.collect()
        t.save()
        bar.close()
        if stop or not closing.finish(t, testing, Reset, stop):
            run.status(state="stopped", frames=t.rollout.frames)
            without = " without --run.fresh" if c.run.fresh else ""
            say(f"stopped at {t.rollout.frames} frames, all is saved; the same command{without} goes on from here")
            return 75
        run.status(state="done", frames=t.rollout.frames)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main(sys.argv[1:]))
