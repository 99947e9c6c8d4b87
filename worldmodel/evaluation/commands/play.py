"""`eval.py RUN play`: the play session, its simulator and its server."""

from __future__ import annotations

import contextlib
import os
import threading
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from worldmodel import build
from worldmodel.config.component_settings import states_fact
from worldmodel.config.loading import ConfigError
from worldmodel.errors import RunError, UsageError
from worldmodel.evaluation.play.job_queue import JobQueue
from worldmodel.evaluation.play.parallel_rollouts import ParallelRollouts
from worldmodel.evaluation.play.pixel_aim import PixelAim, Pixels
from worldmodel.evaluation.play.protocol import PlayProtocol
from worldmodel.evaluation.play.server import Server
from worldmodel.evaluation.play.session import Session
from worldmodel.evaluation.play.start_points import ReplayStarts
from worldmodel.evaluation.play.tunnel import describe_tunnel
from worldmodel.evaluation.quality.run_policies import make_behaviors
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    make_first_available,
)
from worldmodel.model.given_reward import GivenReward
from worldmodel.registry import DYNAMICS
from worldmodel.saved_run import Run
from worldmodel.system.console import say
from worldmodel.system.stop_request import Stop

PAGE = Path(__file__).parents[1] / "play" / "page.html"


def serve_play(
    run: Run,
    make: Callable[[str], Any],
    directory: Path,
    *,
    seed: int,
    context: int,
    port: int,
    browse: bool,
) -> None:
    """Serve until a signal asks for a stop."""
    stop = Stop()
    build.check_goal(run.config, run.model)
    obs = run.config.env.obs
    envs, why = make_first_available(make, ["both", obs] if obs == "state" else [obs])
    notes = (
        []
        if envs
        else [
            f"the environment can't be made here ({why}): there is no simulator beside the model"
        ]
    )
    with envs or contextlib.nullcontext():
        answers = start_session(run, envs, directory, seed, context, notes)
        queries = {n: getattr(answers, n) for n in ("state", "moment")}
        commands = {n: getattr(answers, n) for n in ("step", "start", "clip", "aim")}
        job_queue = JobQueue()
        with Server(port, job_queue, PAGE.read_bytes(), queries, commands) as server:
            for line in answers.notes:
                say(line)
            say(f"open {server.url}")
            if not has_screen():
                tunnel = describe_tunnel(server.server_port, os.environ)
                say(f"no display here; on your own machine first: {tunnel}")
            say("Ctrl-C ends it")
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
            if browse and has_screen():
                threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            job_queue.process(lambda: bool(stop))
            server.shutdown()
    say("stopped")


def start_session(
    run: Run,
    envs: Any | None,
    directory: Path,
    seed: int,
    context: int,
    notes: list[str],
) -> PlayProtocol:
    """A session at its first step with its protocol; RunError if no rollout can start."""
    drivers, left_out = make_behaviors(run)
    rollouts = ParallelRollouts(run.agent, run.policy, drivers)
    replay = ReplayStarts(run.path, run.config.run.seed)
    simulator = (
        Simulator(envs, make_evaluation_rollout(run, envs, seed)[0].to_env) if envs else None
    )
    moves = states_fact(DYNAMICS[run.config.model.dynamics], "moves_pixels")
    aim = PixelAim(rollouts, partial(plan_to_pixels, run)) if moves else None
    session = Session(rollouts, simulator, replay, seed, context, aim)
    if simulator is not None:
        session.start_episode()
    elif replay.count:
        session.start_from_replay(-1, 0)
    else:
        raise RunError(
            f"{run.path}: {'; '.join(notes)}; {replay.problem}: no rollout can start",
            4,
        )
    notes = [*notes, *left_out, *([replay.problem] if replay.problem else [])]
    if isinstance(run.model.reward, GivenReward):
        name = run.model.reward.name
        notes.append(f"the model predicts {name}, and plans by it; real rewards are the task's")
    if not rollouts.can_draw:
        notes.append("this model cannot draw: its predictions are shown as curves only")
    about = f"{run.config.env.task}, {run.path}, trained on {run.frames} frames"
    return PlayProtocol(session, directory, about, notes, run.config.env.repeat)


def plan_to_pixels(run: Run, pixels: Pixels, goals: Pixels) -> Any:
    """The run's planner as a behavior that moves pixels to their goals."""
    keys = {"behavior.name": "mpc", "planner.score": "pixel_distance"}
    places = {"goal.designated": [*map(list, pixels)], "goal.pixels": [*map(list, goals)]}
    try:
        return run.apply_overrides({**keys, **places}).agent.behavior
    except ConfigError as error:
        raise UsageError("; ".join(error.problems)) from None


def has_screen() -> bool:
    """Whether a browser can open a window; a text browser would take over the terminal."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
