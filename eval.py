"""Open saved runs: python eval.py RUN [RUN ...] [returns|imagine|compare|probe|model|play|report]
[--section.key x].
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import envs
from worldmodel.config.loading import split_arguments
from worldmodel.errors import UsageError
from worldmodel.system.console import say

DESCRIPTION = """Evaluate saved runs. --planner.KEY VALUE, --behavior.KEY VALUE and
--goal.KEY VALUE drive them in another way than they were trained with, as in
--behavior.name mpc --planner.score goal_distance --goal.image there.png.
"""
WHAT = ("returns", "imagine", "compare", "probe", "model", "play", "report")
SEVERAL = ("returns", "report")  # what takes several runs
FROM = {
    "returns": ("fresh", "saved"),
    "imagine": ("fresh", "replay"),
    "model": ("fresh", "replay"),
}


def main(argv: list[str]) -> int:
    args, parser, dotted = parsed(argv)
    _, args.changes, problems = split_arguments(dotted)
    if problems:
        parser.error(problems[0])

    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: evaluate(args))


def parsed(argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser, list[str]]:
    """The arguments, what to complain by, and the words of --section.key value."""
    usage = (
        f"eval.py RUN [{'|'.join(WHAT)}] [options]\n       eval.py RUN [RUN ...] "
        f"[{'|'.join(SEVERAL)}]"
    )
    parser = argparse.ArgumentParser(prog="eval.py", description=DESCRIPTION, usage=usage)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN [what]",
        help="a run directory, runs/<task>/<name>/seed<k>, "
        "and what to do with it (returns); returns and report take several",
    )
    options(parser)
    own, dotted = split_dotted(argv)
    args = parser.parse_intermixed_args(own)
    words = args.words
    last = words[-1]
    args.what = words.pop() if len(words) > 1 and last in WHAT else "returns"
    if len(words) > 1 and words[-1] == last and "/" not in last and not Path(last).exists():
        parser.error(f"argument what: invalid choice: {last!r} (choose from {', '.join(WHAT)})")
    if len(words) > 1 and args.what not in SEVERAL:
        parser.error(f"{args.what} takes one run; only {' and '.join(SEVERAL)} take several")
    sources = FROM.get(args.what, ("fresh",))
    given = args.what == "model" and Path(args.source).is_dir()
    if args.source not in sources and not given:
        other = (
            ", or those of another run's directory; this is none" if args.what == "model" else ""
        )
        parser.error(
            f"--from {args.source}: {args.what} takes {' or '.join(sources)} episodes{other}"
        )
    args.runs = [Path(word) for word in words]
    return args, parser, dotted


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--episodes", type=positive, default=10, help="episodes, for all but imagine (10)")
    add("--seed", type=natural, default=0, help="seed of the episodes (0)")
    add(
        "--envs",
        type=natural,
        default=0,
        help="returns: environments side by side; 0 takes one for every core (0)",
    )
    add("--render", choices=["auto", "gl", "fast", "ray"], help="another renderer than the run's")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--context", type=positive, default=5, help="frames seen before imagining (5)")
    add("--length", type=positive, default=50, help="steps imagined (50)")
    add(
        "--long",
        type=positive,
        help="imagine: steps of the longest dreams (as far as the episode lets them go)",
    )
    add(
        "--samples",
        type=several,
        default=8,
        help="imagine: dreams of the same actions, to see where they part (8)",
    )
    add(
        "--from",
        dest="source",
        default="fresh",
        metavar="WHERE",
        help="model, imagine: episodes played now (fresh), or the last ones of the run's "
        "replay; model: or those of "
        "another run, by its directory; returns: fresh, or what RUN/eval/returns.json holds "
        "(saved)",
    )
    add("--starts", type=positive, default=8, help="model: states from which plans are tried (8)")
    add("--plans", type=positive, default=8, help="model: random plans tried from each (8)")
    add(
        "--follow",
        type=natural,
        default=25,
        help="model: steps that policies are followed for, dreamt and "
        "done; 0 leaves them out (25)",
    )
    add(
        "--budgets",
        type=shares,
        default=[0.25, 1.0],
        help="compare: planners' candidates, as shares of the run's planner.candidates (0.25,1)",
    )
    add("--drivers", help="compare: only these ways to drive, as in 'actor;cem' (all)")
    add("--port", type=port, default=0, help="play: where to serve; 0 takes any that is free (0)")
    add("--no-browser", action="store_true", help="play: open no browser, only say the address")


def split_dotted(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words of --section.key value, which argparse does not know, apart from the rest."""
    own: list[str] = []
    dotted: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("--") and "." in word.partition("=")[0]:
            dotted += (
                [word]
                if "=" in word
                else [word, *[w for w in [next(words, None)] if w is not None]]
            )
        else:
            own.append(word)
    return own, dotted


def positive(text: str) -> int:
    return at_least(1, text)


def several(text: str) -> int:
    return at_least(2, text)


def natural(text: str) -> int:
    return at_least(0, text)


def at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not at least {least}")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: they go from 0 to 65535")
    return value


def shares(text: str) -> list[float]:
    values = sorted({float(word) for word in text.split(",")})
    if not all(0 < value <= 1000 for value in values):
        raise argparse.ArgumentTypeError(f"{text} is no list of shares above 0, such as 0.25,1,4")
    return values


def evaluate(args: argparse.Namespace) -> int:
    if args.what == "report":
        report(args)
    elif args.what == "returns":
        returns(args)
    else:
        {"model": model, "play": play, "imagine": imagine, "compare": compare, "probe": probe}[
            args.what
        ](args)
    return 0


def opened(args: argparse.Namespace, path: Path):
    """A run, and what makes so many of its environments by what is observed."""
    from envs.parallel.vector import make_vector
    from worldmodel.saved_run import Run
    from worldmodel.system import runtime
    from worldmodel.system.cpu_cores import count_cores

    run = Run.open(path, args.device).driven(args.changes)
    runtime.configure_torch(min(run.config.run.threads, count_cores()))
    e, d = run.config.env, run.config.distract

    def environments(obs: str = e.obs, num: int = 1):
        make = partial(
            envs.configured(e, d), obs=obs, render=args.render or e.render, held_out=True
        )
        return make_vector(make, num, timeout_s=e.timeout, restart_budget=e.restarts)

    (run.path / "eval").mkdir(exist_ok=True)
    say(f"{e.task}, {run.path}, trained on {run.frames} frames")
    return run, environments


def returns(args: argparse.Namespace) -> None:
    """Scores with intervals and videos; of several runs, their seeds together."""
    from worldmodel.evaluation.commands import returns as scored
    from worldmodel.evaluation.returns import seed_statistics
    from worldmodel.evaluation.returns.evaluation_rollout import require_environment

    wanted = scored.ReturnsOptions(args.episodes, args.seed, args.envs)
    seed_statistics.check_distinct_runs(args.runs)
    found = []
    for path in args.runs:
        if args.source == "saved":
            found.append(scored.load_returns(path))
            say(f"{path}, after {found[-1]['frames']} frames\n{scored.format_returns(found[-1])}")
            continue
        run, environments = opened(args, path)
        found.append(
            scored.evaluate_returns(
                run, require_environment(lambda num, make=environments: make(num=num)), wanted
            )
        )
    if len(found) > 1:
        seed_statistics.write_aggregate(found, args.runs[0] / "eval", args.seed)


def compare(args: argparse.Namespace) -> None:
    """The same model driven by its actor, by planners and by both: returns and milliseconds per
    action.
    """
    from worldmodel.evaluation.commands.compare import CompareOptions, compare_drivers

    run, environments = opened(args, args.runs[0])
    compare_drivers(
        run, environments, CompareOptions(args.episodes, args.seed, args.budgets, args.drivers)
    )


def probe(args: argparse.Namespace) -> None:
    """How well a linear map reads the simulator's true state off the latent, on episodes it was
    not fitted on.
    """
    from worldmodel.evaluation.commands.probe import probed

    run, environments = opened(args, args.runs[0])
    probed(run, environments, args.episodes, args.seed)


def imagine(args: argparse.Namespace) -> None:
    """Dreams beside the truth, many futures, the longest dreams, what the latent draws, and where
    dreams part.
    """
    from worldmodel.evaluation.commands.imagine import Wanted, imagined

    run, environments = opened(args, args.runs[0])
    wanted = Wanted(args.source, args.seed, args.context, args.length, args.long, args.samples)
    imagined(run, environments, wanted)


def model(args: argparse.Namespace) -> None:
    """Every number of the world model's quality on held-out episodes, and a page of plots."""
    from worldmodel.evaluation.commands.model import Wanted, write

    if args.plans < 4:
        raise UsageError(
            "--plans: two pairs of random plans are compared from every state; give at least 4"
        )
    run, environments = opened(args, args.runs[0])
    wanted = Wanted(
        args.source,
        args.episodes,
        args.seed,
        args.context,
        args.length,
        args.starts,
        args.plans,
        args.follow,
    )
    write(run, environments, wanted)


def play(args: argparse.Namespace) -> None:
    """A page on this machine from which a dream is driven, the simulator beside it."""
    from worldmodel.evaluation.commands.play import play as serve

    run, environments = opened(args, args.runs[0])
    serve(
        run,
        environments,
        run.path / "eval",
        seed=args.seed,
        context=args.context,
        port=args.port,
        browse=not args.no_browser,
    )


def report(args: argparse.Namespace) -> None:
    """Everything there is to see of one or more seeds of a run, on one page."""
    from worldmodel.evaluation.report.page import write_report

    made, missing = write_report(args.runs, args.runs[0] / "eval" / "report.html")
    say(f"  {made}")
    for line in missing:
        say(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
