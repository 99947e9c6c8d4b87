"""Measure the share of steps that a saved run's plans spend in a goal region.

python benchmarks/goal_share.py RUN [--goal NAME] [--episodes N] [--planner.KEY VALUE ...]

This is the measure of E2C, PCC and PC3: the planner sees the picture of the goal, and the
simulator's state after each step says whether the goal region holds it. The zero action and
uniformly random actions play the same episodes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reach import Policy, make_planner_policy, prepare_run
from worldmodel import envs
from worldmodel.errors import UsageError
from worldmodel.programs.eval_options import parse_natural, parse_positive, parse_with_changes
from worldmodel.system.console import Progress, say

Generator = np.random.Generator


@dataclass(frozen=True)
class Region:
    """Where episodes start, the state that the goal's picture shows, and who is near it."""

    sample_start: Callable[[Generator], np.ndarray]
    goal: tuple[float, ...]
    holds: Callable[[np.ndarray], bool]
    steps: int


def near_point(state: np.ndarray, goal: tuple[float, float]) -> bool:
    return math.hypot(*(state - goal)) <= 2.0


def make_corner(goal: tuple[float, float]) -> Region:
    """From the corner at the origin to another one, within 2 units."""
    return Region(lambda g: g.uniform(3.0, 7.0, 2), goal, partial(near_point, goal=goal), 40)


def is_upright(state: np.ndarray, entry: int, within: float) -> bool:
    return abs(math.remainder(state[entry], 2 * math.pi)) <= within


PENDULUM = partial(is_upright, entry=0, within=math.pi / 6)
CARTPOLE = partial(is_upright, entry=2, within=math.pi / 10)
# By task and name of the goal; the first of a task is its default.
REGIONS: dict[str, dict[str, Region]] = {
    "planar": {
        "opposite": make_corner((35.0, 35.0)),
        "right": make_corner((35.0, 5.0)),
        "above": make_corner((5.0, 35.0)),
    },
    "pendulum": {
        "balance": Region(
            lambda g: np.array([g.uniform(-math.pi / 6, math.pi / 6), 0.0]),
            (0.0, 0.0),
            PENDULUM,
            100,
        ),
        "swing_up": Region(
            lambda g: np.array([g.uniform(2.83, 2.98), 0.0]), (0.0, 0.0), PENDULUM, 100
        ),
    },
    "cartpole": {
        "balance": Region(
            lambda g: np.array([0.0, 0.0, g.uniform(-0.15, 0.15), 0.0]), (0.0,) * 4, CARTPOLE, 50
        ),
    },
    "cartpole_swingup": {
        "balance": Region(
            lambda g: np.array([0.0, 0.0, g.uniform(-math.pi / 8, math.pi / 8), 0.0]),
            (0.0,) * 4,
            CARTPOLE,
            50,
        ),
        "swing_up": Region(
            lambda g: np.array([0.0, 0.0, g.uniform(2.83, 2.98), 0.0]), (0.0,) * 4, CARTPOLE, 100
        ),
    },
}


def find_region(task: str, name: str | None) -> Region:
    """Find the region of a task by its name; UsageError lists those there are."""
    regions = REGIONS.get(task, {})
    if not regions:
        raise UsageError(f"{task}: goal regions are defined for {', '.join(REGIONS)} only")
    if name is not None and name not in regions:
        raise UsageError(f"--goal: {task} has {', '.join(regions)}, not {name!r}")
    return next(iter(regions.values())) if name is None else regions[name]


def draw_state(env: Any, state: np.ndarray) -> np.ndarray:
    """Put the environment into a state and return its picture."""
    env.unwrapped.set_state(np.array(state, np.float64))
    return env.render()


def play_episode(env: Any, region: Region, seed: list[int], policy: Policy) -> float:
    """Play one episode; return the share of its steps after which the region holds the state.

    Where an episode ends early, the steps that it lacks count as outside.
    """
    generator = np.random.default_rng(seed)
    env.reset(seed=int(generator.integers(2**31)))
    picture, carry, inside = draw_state(env, region.sample_start(generator)), None, 0
    for _ in range(region.steps):
        action, carry = policy(picture, carry)
        picture, _, terminated, truncated, _ = env.step(action)
        inside += region.holds(env.unwrapped.state())
        if terminated or truncated:
            break
    return inside / region.steps


def measure_share(run: Any, region: Region, episodes: int, seed: int) -> dict[str, list[float]]:
    """Play the same episodes by plans, the zero action and random actions: shares of each."""
    c = run.config
    env = envs.make(
        c.env.task, size=tuple(c.env.size), repeat=c.env.repeat, time_limit=region.steps
    )
    env.reset(seed=seed)
    shown = draw_state(env, np.array(region.goal))
    box, generator = env.action_space, np.random.default_rng(seed)
    players: dict[str, Callable[[], Policy]] = {
        f"plans ({c.planner.name})": lambda: make_planner_policy(run, shown),
        "zero action": lambda: lambda picture, carry: (np.zeros(box.shape, np.float32), carry),
        "random actions": lambda: (
            lambda picture, carry: (
                generator.uniform(-1, 1, box.shape).astype(np.float32),
                carry,
            )
        ),
    }
    found: dict[str, list[float]] = {}
    bar = Progress(len(players) * episodes, "episodes")
    for name, make_policy in players.items():
        found[name] = []
        for number in range(episodes):
            found[name].append(play_episode(env, region, [seed, number], make_policy()))
            bar.update((len(found) - 1) * episodes + number + 1, name)
    bar.close()
    return found


def format_table(found: dict[str, list[float]]) -> str:
    lines = [f"{'in goal':>8}{'worst':>8}{'best':>8}  by"]
    for name, shares in found.items():
        numbers = (np.mean(shares), min(shares), max(shares))
        lines.append("".join(f"{100 * x:>7.1f}%" for x in numbers) + f"  {name}")
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> int:
    from worldmodel.system import runtime

    run = prepare_run(args.run, args.changes)
    c = run.config
    region = find_region(c.env.task, args.goal)
    if c.env.obs != "pixels":
        raise UsageError("the goal is a picture: the run's env.obs must be pixels")
    runtime.configure_torch(c.run.threads)
    found = measure_share(run, region, args.episodes, args.seed)
    say(f"{args.run}: steps of {args.episodes} episodes in the goal region of {c.env.task}")
    say(format_table(found))
    if args.out:
        about = {"run": args.run, "goal": args.goal, "seed": args.seed}
        Path(args.out).write_text(json.dumps({**about, "shares": found}, indent=1) + "\n")
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/goal_share.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--goal", help="name of the goal; each task has a first one")
    parser.add_argument("--episodes", type=parse_positive, default=10, help="of each (10)")
    parser.add_argument("--seed", type=parse_natural, default=0, help="seed of episodes (0)")
    parser.add_argument("--out", help="a JSON file for the shares of every episode")
    args = parse_with_changes(parser, argv)

    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
