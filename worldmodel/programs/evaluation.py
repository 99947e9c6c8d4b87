"""What each command of eval.py does, assembled: it opens runs, makes environments, and measures.

Modules of a command are imported when it is called: play needs no plots, returns no web server.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from worldmodel.config import loading
from worldmodel.config.schema import Config, plans_in_simulator
from worldmodel.config.yaml_io import format_name
from worldmodel.errors import RunError, UsageError
from worldmodel.model.dynamics import Simulator
from worldmodel.programs.environments import Environments
from worldmodel.programs.named_function import load_function
from worldmodel.saved_run import Run
from worldmodel.system import runtime, trusted_code
from worldmodel.system.console import say
from worldmodel.system.cpu_cores import LoadMeter

TASK = "env.task"


def open_run(
    args: Namespace, path: Path, environments: Environments
) -> tuple[Run, Callable[..., Any]]:
    """Open a run; return it and a function (obs, num) that makes its environments."""
    overrides = [pair for pair in args.overrides if pair[0] != TASK]

    def make_simulator(config: Config, path: Path) -> Simulator:
        distrust = find_distrust(args, config, path, environments)
        if distrust:
            raise RunError(distrust, 3)
        return environments.make_simulator(config.env, trust=True)

    run = Run.open(path, args.device, make_simulator)
    if args.reward:
        run = run.replace_reward(args.reward, load_function("--reward", args.reward))
    run = run.apply_overrides(overrides)
    distrust = find_distrust(args, run.config, run.path, environments)
    env, distract = run.config.env, run.config.distract

    def make(obs: str = env.obs, num: int = 1):
        if distrust:
            raise RunError(distrust, 3)
        factory = environments.make_factory(
            env, distract, trust=True, simulator=plans_in_simulator(run.config)
        )
        one = partial(factory, obs=obs, render=args.render or env.render, held_out=True)
        return environments.make_vector(
            one, num, timeout_s=env.timeout, restart_budget=env.restarts
        )

    say(f"{env.task}, {run.path}, trained on {run.frames} frames")
    return run, make


def require_model(run: Run) -> None:
    """Raise UsageError for an agent that was trained without a model."""
    if not run.model.dynamics.imagines:
        raise UsageError(
            f"{run.path} has no model to look at (model.dynamics {run.config.model.dynamics}); "
            "returns, compare, probe and report work"
        )


def find_distrust(args: Namespace, config: Config, path: Path, environments: Environments) -> str:
    """Say why the code that a saved run names must not be imported; an empty string if it may."""
    task, named = config.env.task, [pair for pair in args.overrides if pair[0] == TASK]
    shown = repr(format_name(task))
    if named and loading.apply_overrides(config, named).env.task != task:
        raise UsageError(f"--{TASK}: the task of {path} is {shown}, and it cannot be changed")
    doubtful = environments.may_name_code(config.env.kwargs)
    if not doubtful and (named or not environments.names_code(task)):
        return ""
    why = trusted_code.find_distrust(path, config)
    if not why:
        return ""
    if args.trust:
        say(f"--trust: the environment is made by the code {shown}, which {path} names")
        return ""
    if doubtful:
        return f"env.kwargs may name files or code, which are read with --trust only: {why}"
    return f"{TASK} {shown} names code, which is imported with --trust only: {why}"


def evaluate_returns(args: Namespace, environments: Environments) -> None:
    """Scores with intervals and videos; of several runs, their seeds together."""
    from worldmodel.evaluation.commands import returns
    from worldmodel.evaluation.returns import seed_statistics
    from worldmodel.evaluation.returns.evaluation_rollout import require_environment

    options = returns.ReturnsOptions(args.episodes, args.seed, args.envs)
    seed_statistics.check_distinct_runs(args.runs)
    results = []
    for path in args.runs:
        if args.source == "saved":
            results.append(returns.load_returns(path))
            say(f"{path}, after {results[-1]['frames']} frames")
            say(returns.format_returns(results[-1]))
            continue
        run, make = open_run(args, path, environments)
        make_many = require_environment(lambda num, make=make: make(num=num))
        results.append(returns.evaluate_returns(run, make_many, options))
    if len(results) > 1:
        seed_statistics.write_aggregate(results, args.runs[0] / "eval", args.seed)


def imagine(args: Namespace, environments: Environments) -> None:
    """Imagined rollouts beside the truth, many futures, the longest rollouts, and the latent."""
    from worldmodel.evaluation.commands.imagine import ImagineOptions, visualize_imagination

    run, make = open_run(args, args.runs[0], environments)
    require_model(run)
    options = ImagineOptions(
        args.source, args.seed, args.context, args.length, args.long, args.samples
    )
    visualize_imagination(run, make, options)


def compare_drivers(args: Namespace, environments: Environments) -> None:
    """One model driven by its actor, by planners and by both: returns and time per action."""
    from worldmodel.evaluation.commands.compare import CompareOptions, compare_drivers

    run, make = open_run(args, args.runs[0], environments)
    options = CompareOptions(args.episodes, args.seed, args.budgets, args.drivers)
    compare_drivers(run, make, options)


def probe_state(args: Namespace, environments: Environments) -> None:
    """How well a linear map reads the simulator's true state off the latent."""
    from worldmodel.evaluation.commands import probe

    run, make = open_run(args, args.runs[0], environments)
    probe.probe_state(run, make, args.episodes, args.seed)


def measure_model(args: Namespace, environments: Environments) -> None:
    """Every number of the world model's quality on held-out episodes, and a page of plots."""
    from worldmodel.evaluation.commands.model import ModelOptions, evaluate_model

    if args.plans < 4:
        raise UsageError(
            "--plans: two pairs of random plans are compared from every state; give at least 4"
        )
    run, make = open_run(args, args.runs[0], environments)
    require_model(run)
    options = ModelOptions(
        args.source,
        args.episodes,
        args.seed,
        args.context,
        args.length,
        args.starts,
        args.plans,
        args.follow,
    )
    evaluate_model(run, make, options)


def play(args: Namespace, environments: Environments) -> None:
    """A page on this machine that drives the model's imagination, the simulator beside it."""
    from worldmodel.evaluation.commands.play import serve_play

    run, make = open_run(args, args.runs[0], environments)
    require_model(run)
    serve_play(
        run,
        make,
        run.path / "eval",
        seed=args.seed,
        context=args.context,
        port=args.port,
        browse=not args.no_browser,
    )


def write_report(args: Namespace, environments: Environments) -> None:
    """Everything there is to see of one or more seeds of a run, on one page."""
    from worldmodel.evaluation.report.page import write_report

    path, missing = write_report(args.runs, args.runs[0] / "eval" / "report.html")
    say(f"  {path}")
    for line in missing:
        say(line)


COMMANDS: dict[str, Callable[[Namespace, Environments], None]] = {
    "returns": evaluate_returns,
    "imagine": imagine,
    "compare": compare_drivers,
    "probe": probe_state,
    "model": measure_model,
    "play": play,
    "report": write_report,
}


def evaluate(args: Namespace, environments: Environments, load: LoadMeter) -> int:
    """Carry out the command of `args` with one thread per core that `load` finds idle."""
    runtime.configure_torch(runtime.choose_threads(0, None, load))
    COMMANDS[args.command](args, environments)
    return 0
