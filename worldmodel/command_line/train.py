"""Train a world-model agent from pixels; the training loop."""

import os
import sys

from worldmodel import envs
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.system.cpu_cores import LoadMeter

KEPT = "\nwhat the last checkpoint holds is kept; the same command goes on from there"


def train(config, words, load) -> int:
    """Train, or resume, the run of a configuration; the exit code."""
    from worldmodel.programs.training import open_training

    with open_training(config, words, envs, load) as session:
        return 0 if session is None else run_session(session)  # None: trained already


def run_session(session) -> int:
    """Collect, learn, log, evaluate and save until all frames are collected; the exit code."""
    trainer = session.trainer
    while True:
        while trainer.count_pending_updates() > 0 and not session.stop:
            trainer.learn()
            session.show_progress()
        while trainer.count_pending_policy_updates() > 0 and not session.stop:
            trainer.learn_policy()
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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        config = loading.parse(add_default_preset(argv), envs.check_name)
    except UsageError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all ranks of a machine get the same words
            sys.stderr.write(f"{error}\n")
        return error.exit_code
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
