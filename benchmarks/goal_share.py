"""Measure the share of steps that a saved run's plans spend in a goal region.

python benchmarks/goal_share.py RUN [--goal NAME] [--episodes N] [--planner.KEY VALUE ...]

This is the measure of E2C, PCC and PC3: the planner sees the picture of the goal, and the
simulator's state after each step says whether the goal region holds it. The task's own expert, the
zero action and uniformly random actions play the same episodes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel.envs.tasks.pcc_planar import CORNERS

from benchmarks.reach import make_goal, prepare_run
from worldmodel import envs
from worldmodel.errors import UsageError
from worldmodel.programs.eval_options import parse_natural, parse_positive, parse_with_changes
from worldmodel.system.console import Progress, say

Generator = np.random.Generator
Policy = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]  # pictures (N,...) to actions (N,A)
NOISE_SEED = 1  # of the noise on states, beside an episode's own


@dataclass(frozen=True)
class Region:
    """Where episodes start, the states that goal pictures show, and who is near one."""

    sample_start: Callable[[Generator], np.ndarray]
    goals: Sequence[tuple[float, ...]]  # of which each episode draws one
    holds: Callable[[np.ndarray, np.ndarray], bool]  # of a state and a goal
    steps: int
    noise: float = 0.0  # std of what is added to each entry of the state after each step


def is_near(state: np.ndarray, goal: np.ndarray) -> bool:
    return math.hypot(*(state - goal)) <= 2.0


def make_corner(*goals: tuple[float, float]) -> Region:
    """From the corner at the origin to another one, within 2 units."""
    return Region(lambda g: g.uniform(3.0, 7.0, 2), goals, is_near, 40)


def is_upright(state: np.ndarray, goal: np.ndarray, entry: int, within: float) -> bool:
    return abs(math.remainder(state[entry] - goal[entry], 2 * math.pi)) <= within


PENDULUM = partial(is_upright, entry=0, within=math.pi / 6)
CARTPOLE = partial(is_upright, entry=2, within=math.pi / 10)


def make_pendulum(lowest: float, highest: float, noise: float = 0.0) -> Region:
    """From rest at an angle between two, in 100 steps."""
    return Region(
        lambda g: np.array([g.uniform(lowest, highest), 0.0]), [(0.0, 0.0)], PENDULUM, 100, noise
    )


def make_cartpole(lowest: float, highest: float, steps: int) -> Region:
    """From rest in the middle, with the pole at an angle between two."""
    return Region(
        lambda g: np.array([0.0, 0.0, g.uniform(lowest, highest), 0.0]),
        [(0.0,) * 4],
        CARTPOLE,
        steps,
    )


# By task and name of the goal; the first of a task is its default. Those of pcc_ tasks are the
# published ones, but for the noise: without it the pendulum that starts upright stays there.
REGIONS: dict[str, dict[str, Region]] = {
    "planar": {
        "opposite": make_corner((35.0, 35.0)),
        "right": make_corner((35.0, 5.0)),
        "above": make_corner((5.0, 35.0)),
    },
    "pendulum": {
        "balance": make_pendulum(-math.pi / 6, math.pi / 6),
        "swing_up": make_pendulum(2.83, 2.98),
    },
    "cartpole": {"balance": make_cartpole(-0.15, 0.15, 50)},
    "cartpole_swingup": {
        "balance": make_cartpole(-math.pi / 8, math.pi / 8, 50),
        "swing_up": make_cartpole(2.83, 2.98, 100),
    },
    "pcc_planar": {"corners": make_corner(*CORNERS)},
    "pcc_pendulum": {
        "balance": make_pendulum(0.0, 0.0, noise=0.01),
        "swing_up": make_pendulum(2.83, 2.98),
    },
    "pcc_cartpole": {"balance": make_cartpole(-math.pi / 8, math.pi / 8, 50)},
}


def find_region(task: str, name: str | None) -> Region:
    """Find the region of a task by its name; UsageError lists those there are."""
    regions = REGIONS.get(task, {})
    if not regions:
        raise UsageError(f"{task}: goal regions are defined for {', '.join(REGIONS)} only")
    if name is not None and name not in regions:
        raise UsageError(f"--goal: {task} has {', '.join(regions)}, not {name!r}")
    return next(iter(regions.values())) if name is None else regions[name]


class Episodes:
    """Episodes side by side, the same for everyone who plays them."""

    def __init__(self, task: str, size: tuple[int, int], region: Region, count: int, seed: int):
        self.region, self.seeds = region, [[seed, number] for number in range(count)]
        self.envs = [envs.make(task, size=size, time_limit=region.steps) for _ in self.seeds]
        self.goals: list[np.ndarray] = []
        self.ended = [False] * count

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Start them all; return the pictures (N,...) of their starts and of their goals."""
        first, shown, self.goals = [], [], []
        self.ended = [False] * len(self.envs)
        self.noise = [np.random.default_rng([*seed, NOISE_SEED]) for seed in self.seeds]
        for env, seed in zip(self.envs, self.seeds, strict=True):
            generator = np.random.default_rng(seed)
            env.reset(seed=int(generator.integers(2**31)))
            begin = self.region.sample_start(generator)
            goals = self.region.goals
            goal = np.array(goals[generator.integers(len(goals))], np.float64)
            shown.append(draw_state(env, goal))
            first.append(draw_state(env, begin))
            self.goals.append(goal)
        return np.stack(first), np.stack(shown)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take a step of each; return their pictures (N,...) and who is in the region (N,)."""
        pictures, inside = [], []
        for number, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self.ended[number]:
                pictures.append(env.render())
                inside.append(False)
                continue
            picture, _, terminated, truncated, _ = env.step(action)
            state = env.unwrapped.state()
            if self.region.noise:
                noise = self.noise[number].normal(0.0, self.region.noise, len(state))
                env.unwrapped.disturb(noise)
                state, picture = env.unwrapped.state(), env.render()
            pictures.append(picture)
            inside.append(self.region.holds(state, self.goals[number]))
            self.ended[number] = terminated or truncated
        return np.stack(pictures), np.array(inside)

    def play(self, make_policy: Callable[[np.ndarray], Policy]) -> list[float]:
        """Play them by the policy for their goals' pictures; return each one's share of steps
        after which the region holds the state.

        Where an episode ends early, the steps that it lacks count as outside.
        """
        pictures, shown = self.start()
        policy, carry = make_policy(shown), None
        inside = np.zeros(len(self.envs))
        for _ in range(self.region.steps):
            actions, carry = policy(pictures, carry)
            pictures, now = self.step(actions)
            inside += now
        return (inside / self.region.steps).tolist()

    def list_policies(self, task: str, seed: int) -> dict[str, Callable[[np.ndarray], Policy]]:
        """The players that need no model."""
        expert, generator = envs.load_expert(task), np.random.default_rng(seed)
        shape = (len(self.envs), *self.envs[0].action_space.shape)

        def act_expertly(pictures: np.ndarray, carry: Any) -> tuple[np.ndarray, Any]:
            for env, goal in zip(self.envs, self.goals, strict=True):
                if hasattr(env.unwrapped, "goal"):
                    env.unwrapped.goal = tuple(goal)
            return np.stack([expert(env) for env in self.envs]), carry

        return {
            "expert": lambda shown: act_expertly,
            "zero action": lambda shown: lambda seen, carry: (np.zeros(shape), carry),
            "random actions": lambda shown: (
                lambda seen, carry: (generator.uniform(-1, 1, shape), carry)
            ),
        }


def draw_state(env: Any, state: np.ndarray) -> np.ndarray:
    """Put the environment into a state and return its picture."""
    env.unwrapped.set_state(np.array(state, np.float64))
    return env.render()


def make_mean_planner_policy(run: Any, shown: np.ndarray) -> Policy:
    """Plan to goal pictures (N,...), one for each episode, from the mean of the posterior where
    the state holds it.
    """
    from worldmodel import build
    from worldmodel.policy.plan_scores import ScoreMaker

    goal = make_goal(run, shown)

    class MeanStart(ScoreMaker):
        def __call__(self, model: Any, state: Any, *rest: Any) -> Any:
            if "stoch" in state and "mean" in state:
                state = {**state, "stoch": state["mean"]}
            return super().__call__(model, state, *rest)

    maker = build.make_plan_score(run.config, run.policy, lambda: goal)
    run.agent.behavior.make_score = MeanStart(maker.kind, maker.inputs)
    return run.act


def measure_share(run: Any, region: Region, episodes: int, seed: int) -> dict[str, list[float]]:
    """Play the same episodes by plans and by those who need no model: shares of each."""
    c = run.config
    played = Episodes(c.env.task, tuple(c.env.size), region, episodes, seed)
    players = {f"plans ({c.planner.name})": partial(make_mean_planner_policy, run)}
    players |= played.list_policies(c.env.task, seed)
    found: dict[str, list[float]] = {}
    bar = Progress(len(players), "players")
    for name, make_policy in players.items():
        found[name] = played.play(make_policy)
        bar.update(len(found), name)
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
    if c.env.repeat != 1:
        raise UsageError("a step of the measure is a frame: the run's env.repeat must be 1")
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
