"""The command `wm`: its commands, and help that needs nothing but the standard library."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from worldmodel.errors import escape_control, suggest
from worldmodel.system.console import PROGRAM, say
from worldmodel.system.process_end import end_process
from worldmodel.system.process_start import prepare_process

HELP = ("-h", "--help")
# Modules that every training or evaluation imports.
CORE = ("torch", "numpy", "gymnasium", "ruamel", "einops", "safetensors", "PIL", "imageio")
REINSTALL = (
    "./wm without WM_VENV=none installs it"
    if PROGRAM == "./wm"
    else "install this project's wheel again, without --no-deps"
)
TESTS = Path(__file__).resolve().parents[2] / "tests"  # in a checkout
DOCTOR_HELP = """usage: {program} doctor

Report what this machine offers for training: packages, torch, processor, GPU, renderer, memory,
disk and optional packages, with a hint for each part that it lacks. Exit code 3 if training cannot
run here.
"""
TEST_HELP = """usage: {program} test [arguments]

Run the tests; arguments go to pytest. Without arguments it runs all of them on several cores.

examples:
  {program} test -x -k planner
  {program} test tests/config/test_loading.py
"""


def train(args: list[str]) -> int:
    if wants_help(args):
        from worldmodel.command_line.train_help import show_help

        return show_help(args[find_help(args) + 1 :])
    from worldmodel.command_line import train

    return train.main(args)


def evaluate(args: list[str]) -> int:
    from worldmodel.command_line import eval

    return eval.main(args)


def train_grid(args: list[str]) -> int:
    from worldmodel.command_line import sweep

    return sweep.main(args)


def climb_ladder(args: list[str]) -> int:
    from worldmodel.command_line import ladder

    return ladder.main(args)


def pack_run(args: list[str]) -> int:
    from worldmodel.command_line import pack

    return pack.main(args)


def report_machine(args: list[str]) -> int:
    if wants_help(args):
        return show(DOCTOR_HELP)
    if args:
        sys.stderr.write(f"wm doctor: unexpected word {args[0]!r}; it takes none\n")
        return 2
    from worldmodel.system import doctor

    return doctor.main()


def run_tests(args: list[str]) -> int:
    """Replace this process by pytest; ./wm installs pytest first, and does not call this."""
    if wants_help(args):
        return show(TEST_HELP)
    if not TESTS.is_dir():
        sys.stderr.write("the tests are not installed: clone the repository and run ./wm test\n")
        return 3
    os.chdir(TESTS.parent)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-q", *args])


def list_tasks(args: list[str]) -> int:
    from worldmodel.command_line import listings

    return listings.show_tasks(args)


def list_presets(args: list[str]) -> int:
    from worldmodel.command_line import listings

    return listings.show_presets(args)


def list_runs(args: list[str]) -> int:
    from worldmodel.command_line import listings

    return listings.show_runs(args)


def complete(args: list[str]) -> int:
    from worldmodel.command_line import completion

    return completion.main(args, list(COMMANDS))


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (train, "train an agent"),
    "eval": (evaluate, "evaluate a saved run, imagine with it, play in it"),
    "sweep": (train_grid, "train a grid of tasks, seeds and settings, and compare them"),
    "ladder": (climb_ladder, "train every rung of model-based RL, and show the lessons"),
    "runs": (list_runs, "list saved runs with score, state and size"),
    "presets": (list_presets, "list what wm train takes as presets"),
    "tasks": (list_tasks, "list what wm train --task takes"),
    "pack": (pack_run, "pack a run as one directory or zip file, or push it to the hub"),
    "doctor": (report_machine, "report what this machine offers and what would improve it"),
    "test": (run_tests, "run the tests"),
    "completion": (complete, "print a shell completion script"),
}


def main(argv: list[str]) -> int:
    """Run one command; its exit code."""
    if not argv or argv[0] in (*HELP, "help"):
        return show(format_usage())
    if argv[0] == "--version":
        return show(f"worldmodel {import_module('worldmodel').__version__}")
    name, *args = argv
    if name not in COMMANDS:
        sys.stderr.write(f"wm: {describe_unknown(name)}\n")
        return 2
    try:
        return COMMANDS[name][0](args)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in CORE:
            raise
        sys.stderr.write(f"wm: the package {package} is not installed; {REINSTALL}\n")
        return 3


def format_usage() -> str:
    """The commands, with a line for each."""
    rows = [f"  {PROGRAM} {name:<12}{about}" for name, (_, about) in COMMANDS.items()]
    first = f"usage: {PROGRAM} COMMAND [arguments]; {PROGRAM} COMMAND --help explains one"
    return "\n".join([first, "", *rows])


def describe_unknown(name: str) -> str:
    hint = suggest(name, list(COMMANDS)) or f"; try {PROGRAM} --help"
    return f"unknown command '{escape_control(name)}'{hint}"


def needs_no_packages(name: str, args: list[str]) -> bool:
    """Whether a command is answered by the standard library alone."""
    is_mistake = name == "doctor" and bool(args)
    return name in ("runs", "presets", "completion") or is_mistake or wants_help(args)


def show(text: str) -> int:
    say(text.format(program=PROGRAM).rstrip())
    return 0


def find_help(args: list[str]) -> int:
    """Where the first word that asks for help stands; -1 if none does."""
    return next((i for i, word in enumerate(args) if word in HELP), -1)


def wants_help(args: list[str]) -> bool:
    return find_help(args) >= 0


def run() -> None:
    """Run the command that an installed `wm` is called with, and end the process."""
    prepare_process()  # before the imports, which take seconds
    end_process(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
