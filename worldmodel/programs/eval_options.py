"""The options of eval.py: which runs, which command, and how."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldmodel.errors import CONTROL
from worldmodel.system.console import PROGRAM

DESCRIPTION = """Evaluate saved runs. --planner.KEY VALUE, --behavior.KEY VALUE and
--goal.KEY VALUE drive them in another way than they were trained with, as in
--behavior.name mpc --planner.score goal_distance --goal.image there.png.
"""
COMMANDS = ("returns", "imagine", "compare", "probe", "model", "play", "report")
TAKE_SEVERAL_RUNS = ("returns", "report")
SOURCES = {  # of the episodes, by command; the first is the default
    "returns": ("fresh", "saved"),
    "imagine": ("fresh", "replay"),
    "model": ("fresh", "replay"),
}


def parse_eval_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; a mistake ends the process with a line and exit code 2.

    The result holds `command`, `runs`, the options, and `overrides`: the pairs (key, text) of
    --section.key value.
    """
    usage = (
        f"{PROGRAM} eval RUN [{'|'.join(COMMANDS)}] [options]\n"
        f"       {PROGRAM} eval RUN [RUN ...] [{'|'.join(TAKE_SEVERAL_RUNS)}]"
    )
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} eval", description=DESCRIPTION, usage=usage)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN [COMMAND]",
        help="a run directory, runs/<task>/<name>/seed<k>, "
        "and what to do with it (returns); returns and report take several",
    )
    add_options(parser)
    for word in argv:
        if CONTROL.search(word):
            parser.error(f"no line breaks or control characters, got {ascii(word)[:80]}")
    own, dotted = split_dotted(argv)
    args = parser.parse_intermixed_args(own)
    split_command(args, parser)
    check_source(args, parser)
    from worldmodel.config.loading import split_arguments  # which help does without

    _, args.overrides, problems = split_arguments(dotted)
    if problems:
        parser.error(problems[0])
    return args


def split_command(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Split the words into runs and a command; the last word is one if it names one."""
    words, last = args.words, args.words[-1]
    args.command = words.pop() if len(words) > 1 and last in COMMANDS else "returns"
    if len(words) > 1 and words[-1] == last and "/" not in last and not Path(last).exists():
        parser.error(
            f"argument COMMAND: invalid choice: {last!r} (choose from {', '.join(COMMANDS)})"
        )
    if len(words) > 1 and args.command not in TAKE_SEVERAL_RUNS:
        several = " and ".join(TAKE_SEVERAL_RUNS)
        parser.error(f"{args.command} takes one run; only {several} take several")
    args.runs = [Path(word) for word in words]


def check_source(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check where the episodes come from; model takes those of another run's directory too."""
    sources = SOURCES.get(args.command, ("fresh",))
    is_model = args.command == "model"
    if args.source in sources or (is_model and Path(args.source).is_dir()):
        return
    other = ", or those of another run's directory; this is none" if is_model else ""
    parser.error(
        f"--from {args.source}: {args.command} takes {' or '.join(sources)} episodes{other}"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--episodes", type=parse_positive, default=10, help="episodes, for all but imagine (10)")
    add("--seed", type=parse_natural, default=0, help="seed of the episodes (0)")
    add(
        "--envs",
        type=parse_natural,
        default=0,
        help="returns: environments side by side; 0 takes one for every core (0)",
    )
    add("--render", choices=["auto", "gl", "fast", "ray"], help="another renderer than the run's")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--context", type=parse_positive, default=5, help="frames seen before imagining (5)")
    add("--length", type=parse_positive, default=50, help="steps imagined (50)")
    add(
        "--long",
        type=parse_positive,
        help="imagine: steps of the longest rollouts (half of the episode)",
    )
    add(
        "--samples",
        type=parse_samples,
        default=8,
        help="imagine: rollouts of the same actions, to see how they differ (8)",
    )
    add(
        "--from",
        dest="source",
        default="fresh",
        metavar="WHERE",
        help="model, imagine: episodes played now (fresh), or the last ones of the run's replay "
        "(replay); model: or those of another run, by its directory; returns: fresh, or what "
        "RUN/eval/returns.json holds (saved)",
    )
    add(
        "--starts",
        type=parse_positive,
        default=8,
        help="model: states from which plans are tried (8)",
    )
    add("--plans", type=parse_positive, default=8, help="model: random plans tried from each (8)")
    add(
        "--follow",
        type=parse_natural,
        default=25,
        help="model: steps that policies are followed for, imagined and done; 0 leaves them out "
        "(25)",
    )
    add(
        "--budgets",
        type=parse_shares,
        default=[0.25, 1.0],
        help="compare: planners' candidates, as shares of the run's planner.candidates (0.25,1)",
    )
    add("--drivers", help="compare: only these ways to drive, as in 'actor;cem' (all)")
    add(
        "--port",
        type=parse_port,
        default=0,
        help="play: where to serve; 0 takes any that is free (0)",
    )
    add(
        "--trust",
        action="store_true",
        help="import the code that a run names as its env.task, though you did not train it here",
    )
    add("--no-browser", action="store_true", help="play: open no browser, only say the address")


def split_dotted(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split off the words of --section.key value, which argparse does not know."""
    own: list[str] = []
    dotted: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("--") and "." in word.partition("=")[0]:
            dotted.append(word)
            if "=" not in word:
                dotted += [value for value in [next(words, None)] if value is not None]
        else:
            own.append(word)
    return own, dotted


def parse_positive(text: str) -> int:
    return parse_at_least(1, text)


def parse_samples(text: str) -> int:
    return parse_at_least(2, text)


def parse_natural(text: str) -> int:
    return parse_at_least(0, text)


def parse_at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not at least {least}")
    return value


def parse_port(text: str) -> int:
    value = parse_at_least(0, text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: they go from 0 to 65535")
    return value


def parse_shares(text: str) -> list[float]:
    try:
        values = sorted({float(word) for word in text.split(",")})
    except ValueError:
        values = [0.0]
    if not all(0 < value <= 1000 for value in values):
        raise argparse.ArgumentTypeError(f"{text} is no list of shares above 0, such as 0.25,1,4")
    return values
