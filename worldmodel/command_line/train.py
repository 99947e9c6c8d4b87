"""Train a world-model agent from pixels; the training loop."""

import os
import sys

from worldmodel import envs
from worldmodel.config import loading
from worldmodel.config.rules import RULES, Choice
from worldmodel.errors import exit_code_of
from worldmodel.system.console import say
from worldmodel.system.cpu_cores import LoadMeter

DRY_RUN = "--dry-run"  # say what the rules choose, and train nothing
KEPT = "\nwhat the last checkpoint holds is kept; the same command goes on from there"


def train(config, words, load) -> int:
    """Train, or resume, the run of a configuration; the exit code."""
    from worldmodel.programs.training import open_training

    with open_training(config, words, envs, load) as session:
        return 0 if session is None else run_session(session)  # None: trained already


def plan(config, load) -> int:
    """Say what a training by train.budget would do; the exit code."""
    from worldmodel.programs.training import show_plan

    return show_plan(config, envs, load)


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
    words = [word for word in argv if word != DRY_RUN]
    choices: list[Choice] = []
    try:
        config = loading.parse(
            add_default_preset(words), envs.check_name, envs.describe_task, choices.append
        )
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all ranks of a machine get the same words
            sys.stderr.write(f"{error}\n")
        return code
    if is_main:
        show_choices(choices)
        if DRY_RUN in argv and not choices:
            keys = ", ".join(RULES)
            say(f"all keys are valid; no rule chooses anything, since none of {keys} is auto")
    if DRY_RUN in argv and not config.train.budget:
        return 0
    load = LoadMeter()
    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    if DRY_RUN in argv:
        return run_command(lambda: plan(config, load))
    code = run_command(lambda: train(config, words, load), KEPT)
    if config.run.fresh and code in (3, 4, 5, 74) and is_main:
        sys.stderr.write(
            "--run.fresh true starts over whenever it is given; to go on, leave it out\n"
        )
    return code


def show_choices(choices: list[Choice]) -> None:
    """Say what the rules chose, and why."""
    for choice in choices:
        say(f"rule: {choice.key} {choice.value} ({choice.why})")


def add_default_preset(argv: list[str]) -> list[str]:
    """Add a preset where none is named: generalist to a task, quickstart where none is named."""
    names, overrides, _ = loading.split_arguments(argv)
    if names:
        return argv
    return ["generalist" if "env.task" in dict(overrides) else "quickstart", *argv]
