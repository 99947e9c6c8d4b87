"""Train a world-model agent from pixels; the training loop."""

import os
import sys

from worldmodel import envs
from worldmodel.config import loading
from worldmodel.system.console import say
from worldmodel.system.cpu_cores import LoadMeter
from worldmodel.system.process_end import end_process

USAGE = """python train.py [PRESET ...] [--section.key value ...]

Presets are layered left to right over configs/defaults.yaml: {presets}
Without a preset and without env.task it trains the preset quickstart: minutes on a CPU.
Example: python train.py planet --env.task dmc:cartpole_balance --run.seed 1
Running the same command again resumes the run; --run.fresh true starts over.
Several processes, GPUs or machines: torchrun --nproc-per-node N train.py ...; see docs/scaling.md.
"""
KEPT = "\nwhat the last checkpoint holds is kept; the same command goes on from there"


def train(config, words, load) -> int:
    """Collect, learn, log, evaluate and save until all frames are collected; the exit code."""
    from worldmodel.programs.training import open_training

    with open_training(config, words, envs, load) as session:
        if session is None:
            return 0  # trained already
        trainer = session.trainer
        while True:
            while trainer.count_pending_updates() > 0 and not session.stop:
                trainer.learn()
                session.show_progress()
            session.show_progress()
            if session.is_over:
                break
            if trainer.due.log:
                trainer.log()
            if trainer.due.eval and not session.evaluate():
                break
            if trainer.due.save:
                trainer.save()
            trainer.collect()
        trainer.save()
        return session.finish()


def main(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        say(USAGE.format(presets=", ".join(loading.list_presets())))
        return 0
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        config = loading.parse(add_default_preset(argv), envs.check_name)
    except loading.ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all ranks of a machine get the same words
            sys.stderr.write(f"{error}\n")
        return 2
    load = LoadMeter()
    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    code = run_command(lambda: train(config, argv, load), KEPT)
    if config.run.fresh and code in (3, 4, 5, 74) and is_main:
        sys.stderr.write(
            "--run.fresh true starts over whenever it is given; to go on, leave it out\n"
        )
    return code


def add_default_preset(argv: list[str]) -> list[str]:
    """Add the preset quickstart where neither a preset nor a task is named."""
    names, overrides, _ = loading.split_arguments(argv)
    return argv if names or "env.task" in dict(overrides) else ["quickstart", *argv]


def leave(code: int) -> None:
    """End the process; a rank at once, since the threads of torch.distributed may crash while the
    interpreter shuts down.
    """
    if os.environ.get("RANK"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end_process(code)


def run() -> None:
    """Run the command of this process, and end it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    leave(main(sys.argv[1:]))
