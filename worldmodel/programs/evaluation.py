"""What each command of eval.py does, assembled: it opens runs, makes environments, and measures.

Modules of a command are imported when it is called: play needs no plots, returns no web server.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from worldmodel.config.schema import Config, plans_in_simulator
from worldmodel.config.yaml_io import format_name
from worldmodel.errors import RunError, UsageError
from worldmodel.evaluation.results import write_result
from worldmodel.evaluation.returns import other_task
from worldmodel.evaluation.returns.other_task import Script
from worldmodel.model.dynamics import Simulator
from worldmodel.model.heads import KnownHead
from worldmodel.programs.environments import Environments
from worldmodel.programs.eval_options import TRANSFERABLE
from worldmodel.programs.named_function import load_function
from worldmodel.run_directory import RunDir, locate_results
from worldmodel.saved_run import Run
from worldmodel.system import runtime, trusted_code
from worldmodel.system.console import say
from worldmodel.system.cpu_cores import LoadMeter

TASK = "env.task"


def open_run(
    args: Namespace, path: Path, environments: Environments
) -> tuple[Run, Callable[..., Any]]:
    """Open a run; return it and a function (obs, num) that makes its environments.

    If the command line names another task, its heads of reward and continuation are those of that.
    """
    overrides = [pair for pair in args.overrides if pair[0] != TASK]

    def make_simulator(config: Config, path: Path) -> Simulator:
        distrust = find_distrust(args, config, path, environments)
        if distrust:
            raise RunError(distrust, 3)
        return environments.make_simulator(config.env, trust=True)

    run = Run.open(path, args.device, make_simulator)
    own, other = run.config.env.task, find_other_task(args, run.config)
    if other:
        check_other_task(args, other, environments)
        run = run.replace_task(other)
    if args.reward:
        run = run.replace_reward(args.reward, load_function("--reward", args.reward))
    run = run.apply_overrides(overrides)
    distrust = "" if other else find_distrust(args, run.config, run.path, environments)
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

    of = f" of {own}" * bool(other)
    say(f"{env.task}, {run.path}, trained on {run.frames} frames{of}")
    if other:
        learn_other_task(args, run, make, own)
    return run, make


def find_other_task(args: Namespace, config: Config) -> str:
    """The task that --env.task names, if it is not the run's own; otherwise empty."""
    named = [text for key, text in args.overrides if key == TASK]
    return named[-1] if named and named[-1] != config.env.task else ""


def check_other_task(args: Namespace, task: str, environments: Environments) -> None:
    """UsageError, or the environments' own error, if the command cannot use another task."""
    if args.command not in TRANSFERABLE:
        raise UsageError(
            f"--{TASK}: {args.command} looks at the task that the run was trained on; only "
            f"{', '.join(TRANSFERABLE)} can use its model for another"
        )
    if args.reward:
        raise UsageError(f"--reward: with another --{TASK} its reward is learnt; give one of them")
    environments.check_name(task)


def learn_other_task(args: Namespace, run: Run, make: Callable[..., Any], own: str) -> None:
    """Fit the new heads of a run for another task, unless they are equations; write task.json."""
    found: dict[str, Any] = {"task": run.other_task, "trained_on": own, "rewards": "known"}
    with make() as envs:
        other_task.check_spaces(run, envs)
        if isinstance(run.model.reward, KnownHead):
            say(f"rewards of {run.other_task}: its equation of the predicted vector")
        else:
            scripts = read_scripts(run, args.fit_episodes) if args.fit_from == "replay" else ()
            count = len(scripts) or args.fit_episodes
            how = "of the replay, simulated again" if scripts else "played now"
            say(f"rewards of {run.other_task}: learning a new head from {count} episodes {how}")
            returns = other_task.learn_task(run, envs, args.seed, args.fit_episodes, scripts)
            found |= {"rewards": "learnt", "episodes_from": args.fit_from, "returns": returns}
            say(f"  their mean return is {sum(returns) / len(returns):.1f}")
    write_result(run.results / "task.json", found)


def read_scripts(run: Run, count: int) -> list[Script]:
    """Seeds and actions of the last episodes of the run's replay."""
    from worldmodel.evaluation.play.start_points import ReplayStarts

    replay = ReplayStarts(run.path, run.config.run.seed)
    starts = [replay.make_start(i, -1) for i in range(-min(count, replay.count), 0)]
    scripts = [Script(start.seed, start.actions) for start in starts if start.seed is not None]
    if not scripts:
        why = replay.problem or "the seeds of its episodes are not known"
        raise UsageError(f"--fit-from replay: {why}")
    return scripts


def require_model(run: Run) -> None:
    """Raise UsageError for an agent that was trained without a model."""
    if not run.model.dynamics.imagines:
        raise UsageError(
            f"{run.path} has no model to look at (model.dynamics {run.config.model.dynamics}); "
            "returns, compare, probe and report work"
        )


def find_distrust(args: Namespace, config: Config, path: Path, environments: Environments) -> str:
    """Say why the code that a saved run names must not be imported; an empty string if it may."""
    task = config.env.task
    shown, named = repr(format_name(task)), (TASK, task) in args.overrides
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
    results, others = [], []
    for path in args.runs:
        if args.source == "saved":
            task = find_other_task(args, RunDir(path).load_config())
            others.append(args.reward or task)
            results.append(returns.load_returns(path, task, args.reward or ""))
            say(f"{path}, after {results[-1]['frames']} frames")
            say(returns.format_returns(results[-1]))
            continue
        run, make = open_run(args, path, environments)
        others.append(args.reward or run.other_task)
        make_many = require_environment(lambda num, make=make: make(num=num))
        results.append(returns.evaluate_returns(run, make_many, options))
    if len(results) > 1:
        target = locate_results(args.runs[0], others[0])
        seed_statistics.write_aggregate(results, target, args.seed)


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
        run.results,
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
