"""The options of eval.py: which runs, which command, and how."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.errors import suggest
from worldmodel.programs.option_parser import OptionParser
from worldmodel.programs.saved_runs import ROOT, find_newest
from worldmodel.system.console import PROGRAM

COMMANDS = {
    "returns": "play new episodes: scores with intervals, videos; of several runs, their seeds",
    "imagine": "imagined rollouts beside the truth: videos, futures, the useful horizon",
    "compare": "the actor and every planner on one model: returns against thinking time",
    "probe": "read the simulator's state from the latent by a linear regression",
    "model": "every error of the world model, by prediction horizon",
    "play": "drive the model in a browser, the simulator beside it",
    "report": "one page about a run, or about the seeds of one",
}
TAKE_SEVERAL_RUNS = ("returns", "report")
SOURCES = {  # of the episodes, by command; the first is the default
    "returns": ("fresh", "saved"),
    "imagine": ("fresh", "replay"),
    "model": ("fresh", "replay"),
}
FROM = {
    "returns": "episodes played now (fresh), or what RUN/eval/returns.json holds (saved)",
    "imagine": "episodes played now (fresh), or the last ones of the run's replay (replay)",
    "model": "episodes played now (fresh), the last ones of the run's replay (replay), or those "
    "of another run, by its directory",
}
ABOUT = """Evaluate saved runs. RUN is a run directory, runs/<task>/<name>/seed<k>; `latest` is the
newest one in runs/. Without a command it plays episodes (returns).
"""
OTHER_TASK = """--env.task OTHER lets the run's model plan for another task of the same
body: new heads learn its rewards from a few episodes (returns, compare, play).
"""
OTHER_DRIVERS = """--planner.KEY VALUE, --behavior.KEY VALUE and --goal.KEY VALUE drive the run in
another way than it was trained with, as in --behavior.name mpc --planner.candidates 400.
--guided.evaluate controllers asks the teachers of guided policy search.
"""
LATEST = "latest"


class PlainFormatter(argparse.RawDescriptionHelpFormatter):
    """Help whose paragraphs stay as they are written."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26)


def parse_eval_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; a mistake ends the process with a line and exit code 2.

    The result holds `command`, `runs`, the options, and `overrides`: the pairs (key, text) of
    --section.key value.
    """
    parser = make_parser("", argument_default=argparse.SUPPRESS)
    parser.refuse_control(argv)
    own, dotted = split_dotted(argv)
    args = parser.parse_words(own)
    given = [name for name in vars(args) if name not in ("words", "help")]
    args.words = vars(args).get("words", [])
    if "help" in args:
        named = [word for word in args.words if word in COMMANDS]
        make_parser(named[-1] if named else "").print_help()
        parser.exit()
    split_command(args, parser)
    check_options(args.command, given, parser)
    for name, (_, option) in OPTIONS.items():
        dest = option.get("dest", to_dest(name))
        if dest not in args:
            setattr(args, dest, option.get("default", False if "action" in option else None))
    check_source(args, parser)
    from worldmodel.config.loading import split_arguments  # which help does without

    _, args.overrides, problems = split_arguments(dotted)
    if problems:
        parser.error(problems[0])
    return args


def make_parser(command: str, **options: Any) -> OptionParser:
    """The parser of a command's options; without a command, of all."""
    program = f"{PROGRAM} eval"
    if command:
        runs = "RUN [RUN ...]" if command in TAKE_SEVERAL_RUNS else "RUN"
        usage = f"{program} {runs} {command} [options] [--section.key VALUE ...]"
        about = f"{command}: {COMMANDS[command]}."
        about += "" if command == "report" else f"\n\n{OTHER_DRIVERS}"
        about += f"\n{OTHER_TASK}" * (command in TRANSFERABLE)
    else:
        usage = f"{program} RUN [RUN ...] [COMMAND] [options] [--section.key VALUE ...]"
        rows = [f"  {name:<9}{line}" for name, line in COMMANDS.items()]
        more = f"{program} RUN COMMAND --help lists the options of a command."
        about = "\n".join([ABOUT, "commands:", *rows, "", more, "", OTHER_DRIVERS])
    parser = OptionParser(
        prog=program,
        usage=usage,
        description=about,
        formatter_class=PlainFormatter,
        add_help=False,
        **options,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="show this and end")
    for name in list_options(command):
        option = {**OPTIONS[name][1]}
        if name == "--from" and command:
            option["help"] = FROM[command]
        if options:
            option.pop("default", None)  # so that it is known what was given
        if not command and not options:
            option["help"] = argparse.SUPPRESS  # an overview of commands, not of options
        parser.add_argument(name, **option)
    return parser


def list_options(command: str) -> list[str]:
    """The options of a command; without one, all."""
    return [n for n, (commands, _) in OPTIONS.items() if not command or command in commands]


def list_choices(name: str) -> list[str]:
    """The values that an option has a list of."""
    return list(OPTIONS.get(name, ((), {}))[1].get("choices", []))


def to_dest(name: str) -> str:
    """The attribute that an option is kept as: --no-browser is no_browser."""
    return name.removeprefix("--").replace("-", "_")


def split_command(args: argparse.Namespace, parser: OptionParser) -> None:
    """Split the words into runs and a command; the last word is one if it names one."""
    words = args.words
    last = words[-1] if words else ""
    if not words or (len(words) == 1 and last in COMMANDS and not Path(last).exists()):
        parser.error(
            f"name a run, as in {parser.prog} RUN {last}".rstrip()
            + f"; {PROGRAM} runs lists them, and {LATEST} is the newest"
        )
    args.command = words.pop() if len(words) > 1 and last in COMMANDS else "returns"
    if len(words) > 1 and words[-1] == last and is_mistaken_command(last):
        parser.error(
            f"argument COMMAND: invalid choice: {last!r}{suggest(last, list(COMMANDS))}; choose "
            f"from {', '.join(COMMANDS)}"
        )
    if len(words) > 1 and args.command not in TAKE_SEVERAL_RUNS:
        several = " and ".join(TAKE_SEVERAL_RUNS)
        parser.error(f"{args.command} takes one run; only {several} take several")
    args.runs = [find_run(word, parser) for word in words]


def is_mistaken_command(word: str) -> bool:
    return "/" not in word and word != LATEST and not Path(word).exists()


def find_run(word: str, parser: OptionParser) -> Path:
    """A run directory as it is named; `latest` is the newest run in runs/, ROOT/latest in ROOT."""
    path = Path(word)
    if path.name != LATEST or path.exists():
        return path
    root = ROOT if word == LATEST else path.parent
    newest = find_newest(root)
    if newest is None:
        parser.exit(4, f"{parser.prog}: {word}: no run in {root}; make one with {PROGRAM} train\n")
    return newest


def check_options(command: str, given: list[str], parser: OptionParser) -> None:
    """Refuse options of another command."""
    for name, (commands, option) in OPTIONS.items():
        if option.get("dest", to_dest(name)) in given and command not in commands:
            hint = suggest(name, list_options(command)) or (
                f" (did you mean {PROGRAM} eval RUN {commands[0]} {name}?)"
            )
            parser.error(f"{name} is no option of {command}{hint}")


def check_source(args: argparse.Namespace, parser: OptionParser) -> None:
    """Check where the episodes come from; model takes those of another run's directory too."""
    sources = SOURCES.get(args.command, ("fresh",))
    is_model = args.command == "model"
    if args.source in sources or (is_model and Path(args.source).is_dir()):
        return
    other = ", or those of another run's directory; this is none" if is_model else ""
    parser.error(
        f"--from {args.source}: {args.command} takes {' or '.join(sources)} episodes{other}"
    )


def parse_with_changes(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """A parser's arguments, and as `changes` the configuration's keys among them."""
    from worldmodel.config.loading import split_arguments  # which help does without

    own, dotted = split_dotted(argv)
    args = parser.parse_args(own)
    _, args.changes, problems = split_arguments(dotted)
    if problems:
        parser.error(problems[0])
    return args


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


Option = tuple[tuple[str, ...], dict[str, Any]]  # the commands that take it; what argparse is told


def count(parse: Callable[[str], Any], default: int | None, text: str, *commands: str) -> Option:
    """An option that is a number."""
    about = text if default is None else f"{text} ({default})"
    return commands, {"type": parse, "default": default, "metavar": "N", "help": about}


PLAYING = ("returns", "imagine", "compare", "probe", "model", "play")
EPISODIC = ("returns", "compare", "probe", "model")
TRANSFERABLE = ("returns", "compare", "play")  # those that another reward or task can be given
OPTIONS: dict[str, Option] = {
    "--episodes": count(parse_positive, 10, "episodes", *EPISODIC),
    "--seed": count(parse_natural, 0, "seed of the episodes", *PLAYING),
    "--envs": count(parse_natural, 0, "environments side by side; 0: one per core", "returns"),
    "--context": count(
        parse_positive, 5, "frames seen before imagining", "imagine", "model", "play"
    ),
    "--length": count(parse_positive, 50, "steps imagined", "imagine", "model"),
    "--long": count(
        parse_positive, None, "steps of the longest rollouts (half of the episode)", "imagine"
    ),
    "--samples": count(
        parse_samples, 8, "rollouts of the same actions, to see how they differ", "imagine"
    ),
    "--from": (tuple(SOURCES), {"dest": "source", "default": "fresh", "metavar": "WHERE"}),
    "--starts": count(parse_positive, 8, "states from which plans are tried", "model"),
    "--plans": count(parse_positive, 8, "random plans tried from each", "model"),
    "--follow": count(
        parse_natural,
        25,
        "steps that policies are followed for, imagined and done; 0: none",
        "model",
    ),
    "--budgets": (
        ("compare",),
        {
            "type": parse_shares,
            "default": [0.25, 1.0],
            "metavar": "SHARES",
            "help": "planners' candidates, as shares of the run's planner.candidates (0.25,1)",
        },
    ),
    "--drivers": (
        ("compare",),
        {"metavar": "NAMES", "help": "only these ways to drive, as in 'actor;cem' (all)"},
    ),
    "--reward": (
        TRANSFERABLE,
        {
            "metavar": "MODULE:FUNCTION",
            "help": "plan by this reward of decoded observations instead of the learned one",
        },
    ),
    "--fit-episodes": count(
        parse_positive,
        20,
        "episodes from which the rewards of another --env.task are learnt",
        *TRANSFERABLE,
    ),
    "--fit-from": (
        TRANSFERABLE,
        {
            "choices": ["fresh", "replay"],
            "default": "fresh",
            "help": "what these episodes are: played now (fresh), or the last ones of the run's "
            "replay, simulated again in the other task (replay)",
        },
    ),
    "--port": count(parse_port, 0, "where to serve; 0: any that is free", "play"),
    "--no-browser": (("play",), {"action": "store_true", "help": "open no browser"}),
    "--render": (
        PLAYING,
        {"choices": ["auto", "gl", "fast", "ray"], "help": "another renderer than the run's"},
    ),
    "--device": (
        PLAYING,
        {"choices": ["auto", "cpu", "cuda"], "default": "auto", "help": "where to compute (auto)"},
    ),
    "--trust": (
        PLAYING,
        {
            "action": "store_true",
            "help": "import the code that a run of others names as its env.task",
        },
    ),
}
