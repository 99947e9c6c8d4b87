"""Measure how often saved runs reach the goal that a picture shows.

python benchmarks/reach.py RUN [RUN ...] [--episodes N]

All runs, and random actions, play the same episodes towards the same goal pictures, which come
from other episodes. The simulator's state after the last step decides whether the goal was
reached. The runs may have been trained in any way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel.envs.names import DISTRACT
from worldmodel.envs.tasks.base import Task
from worldmodel.envs.tasks.pushing import Pushing, count_objects

from worldmodel import envs
from worldmodel.errors import UsageError
from worldmodel.programs.eval_options import parse_natural, parse_positive, parse_with_changes
from worldmodel.system.console import Progress, say

COLUMNS = 9  # pictures of an episode in the strip, before the goal
WANDER = 20  # random steps, at most, before the goal's picture is taken
BLUE, GREEN, BAR = (70, 140, 255), (90, 220, 120), 2
CHANGEABLE = ("goal.distance", "goal.at")  # goal keys that the command line may set

Policy = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]


def measure_distance(state: np.ndarray, goal: np.ndarray, points: int) -> float:
    """Return the mean distance between the first `points` points (x, y) of two states."""
    return float(np.linalg.norm((state - goal)[: 2 * points].reshape(points, 2), axis=1).mean())


def measure_objects_distance(state: np.ndarray, goal: np.ndarray) -> float:
    """Return the mean distance between the places of each object of `pushing` in two states."""
    moves = (state - goal)[4 : 4 + 3 * count_objects(state)].reshape(-1, 3)
    return float(np.linalg.norm(moves[:, :2], axis=1).mean())


def read_state(env: Any) -> np.ndarray:
    """Return the simulator's state; of the suite's reacher where its elbow and its tip are."""
    world = env.unwrapped
    if isinstance(world, Task):
        return world.state()
    return world.physics.named.data.xpos[["hand", "finger"], :2].ravel()


def share_marker(env: Any, other: Any) -> None:
    """Draw the marker of the task's own goal in `other` where `env` has it."""
    task, world = env.unwrapped, other.unwrapped
    if isinstance(task, Task):
        world.goal = task.goal
        return
    for field in ("geom_pos", "geom_size"):
        there, here = (getattr(w.physics.named.model, field) for w in (world, task))
        there["target"] = here["target"]
    world.physics.forward()


# Each task's distance between two states, and the distance within which a goal counts as reached:
# about the mass's radius, a link of the rope, half an object, or the radius of the reacher's
# target.
TASKS = {
    "pointmass": (partial(measure_distance, points=1), 0.15),
    "rope": (partial(measure_distance, points=12), 0.12),
    "pushing": (measure_objects_distance, 0.1),
    "dmc:reacher_easy": (partial(measure_distance, points=2), 0.05),
}


@dataclass
class Episode:
    """Distances to the goal (T+1,) and pictures (T+1,H,W,3) of one episode."""

    gaps: list[float]
    pictures: list[np.ndarray]


@dataclass
class GoalTask:
    """An environment to play in, another to take goals from, and when a goal is reached."""

    env: Any
    other: Any
    gap: Callable[[np.ndarray, np.ndarray], float]
    within: float
    seed: int

    def start_episode(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start episode `number`; return its first picture, and picture and state of its goal.

        The goal's episode shows this one's marker and its objects, if the task draws any.
        """
        generator = np.random.default_rng([self.seed, number])
        first, _ = self.env.reset(seed=int(generator.integers(2**31)))
        start = read_state(self.env)
        while True:
            self.other.reset(seed=int(generator.integers(2**31)))
            task, other = self.env.unwrapped, self.other.unwrapped
            if isinstance(other, Pushing) and not other.take_shapes(task):
                continue
            for _ in range(generator.integers(WANDER + 1)):
                self.other.step(generator.uniform(-1, 1, self.other.action_space.shape))
            there = read_state(self.other)
            if self.gap(start, there) > 3 * self.within:
                share_marker(self.env, self.other)
                return first, self.other.render(), there

    def play_episode(
        self, number: int, steps: int, policy_to: Callable[[np.ndarray], Policy]
    ) -> tuple[Episode, np.ndarray]:
        """Play one episode with the policy made for its goal picture; return that picture too."""
        picture, shown, there = self.start_episode(number)
        policy, carry = policy_to(shown), None
        played = Episode([self.gap(read_state(self.env), there)], [picture])
        for _ in range(steps):
            action, carry = policy(picture, carry)
            picture, _, terminated, truncated, _ = self.env.step(action)
            played.gaps.append(self.gap(read_state(self.env), there))
            played.pictures.append(picture)
            if terminated or truncated:
                break
        return played, shown


def prepare_run(path: str, changes: list[tuple[str, str]]) -> Any:
    """Open a run and let it plan towards a goal picture; UsageError for keys that are fixed."""
    from worldmodel.config.schema import DISTANCE_OBJECTIVES
    from worldmodel.saved_run import Run

    fixed = [
        key
        for key, _ in changes
        if key == "planner.score" or not (key in CHANGEABLE or key.startswith("planner."))
    ]
    if fixed:
        raise UsageError(
            f"{fixed[0]} cannot be set here: plans aim at the goal picture of each episode; "
            f"{' and '.join(CHANGEABLE)} and the planner's other keys can be set"
        )
    run = Run.open(path)
    learnt = any(run.config.loss.objective.get(name) for name in DISTANCE_OBJECTIVES)
    goal = [
        ("goal.image", "given"),
        ("goal.run", "null"),
        ("goal.distance", "learnt" if learnt else "belief"),
    ]
    planner = [("planner.score", "goal_distance"), ("planner.proposals", "0")]
    return run.apply_overrides([("behavior.name", "mpc"), *planner, *goal, *changes])


def open_runs(paths: list[str], changes: list[tuple[str, str]]) -> dict[str, Any]:
    """Open runs and let each plan towards a goal picture; UsageError if their tasks differ."""
    runs = {path: prepare_run(path, changes) for path in paths}
    run = runs[paths[-1]]
    scenes = {path: describe_scene(run.config) for path, run in runs.items()}
    if any(found != describe_scene(run.config) for found in scenes.values()):
        raise UsageError(
            f"these runs play different tasks, sizes, repeats, limits or backgrounds: {scenes}"
        )
    task, plain = run.config.env.task, run.config.env.task.removeprefix(DISTRACT)
    if plain not in TASKS:
        raise UsageError(
            f"{task}: reaching a goal is defined for {', '.join(TASKS)} only, with or without "
            f"distract:"
        )
    if any(run.config.env.obs != "pixels" for run in runs.values()):
        raise UsageError("goals are pictures: each run's env.obs must be pixels")
    return runs


def describe_scene(c: Any) -> dict[str, Any]:
    """Return the settings that determine the episodes."""
    e, d = c.env, c.distract
    found = {"task": e.task, "size": e.size, "repeat": e.repeat, "time_limit": e.time_limit}
    found |= {"kwargs": e.kwargs} if e.kwargs else {}
    return (
        {**found, "strength": d.strength, "kind": d.kind} if e.task.startswith(DISTRACT) else found
    )


def make_goal_task(run: Any, seed: int) -> GoalTask:
    e, d = run.config.env, run.config.distract
    make = partial(envs.make_factory(e, d), obs="pixels", held_out=True)
    return GoalTask(make(), make(), *TASKS[e.task.removeprefix(DISTRACT)], seed)


def make_goal(run: Any, shown: np.ndarray) -> Any:
    """The goal that pictures (N,H,W,3) show, one for each episode."""
    import torch

    from worldmodel.policy.goals import Goal

    picture = torch.from_numpy(shown).unsqueeze(1)
    return Goal({"image": picture}, run.config.goal.distance, run.config.goal.at)


def make_planner_policy(run: Any, shown: np.ndarray) -> Policy:
    """Make a policy that plans towards a goal picture (H,W,3)."""
    from worldmodel import build

    goal = make_goal(run, shown[None])
    run.agent.behavior.make_score = build.make_plan_score(run.config, run.policy, lambda: goal)
    return run.act


def make_random_policy(
    goal_task: GoalTask, generator: np.random.Generator, shown: np.ndarray
) -> Policy:
    shape = goal_task.env.action_space.shape
    return lambda picture, carry: (generator.uniform(-1, 1, shape).astype(np.float32), carry)


def make_strip(played: Episode, shown: np.ndarray) -> np.ndarray:
    """Make a strip of an episode's pictures under a blue bar and the goal under a green one.

    Returns (H+BAR, columns*W, 3).
    """
    picks = np.linspace(0, len(played.pictures) - 1, COLUMNS).round().astype(int)
    row = np.concatenate([*(played.pictures[i] for i in picks), shown], 1)
    bar = np.empty((BAR, *row.shape[1:]), np.uint8)
    bar[:, : -shown.shape[1]], bar[:, -shown.shape[1] :] = BLUE, GREEN
    return np.concatenate([bar, row])


def summarise(episodes: list[Episode], within: float) -> dict[str, Any]:
    reached = sum(played.gaps[-1] <= within for played in episodes)
    low, high = compute_share_interval(reached, len(episodes))
    ends, starts = [p.gaps[-1] for p in episodes], [p.gaps[0] for p in episodes]
    return {
        "reached": reached / len(episodes),
        "low": low,
        "high": high,
        "gap": float(np.mean(ends)),
        "gap_at_start": float(np.mean(starts)),
        "episodes": len(episodes),
        "steps": float(np.mean([len(p.gaps) - 1 for p in episodes])),
    }


def compute_share_interval(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    z, share = 1.96, hits / count
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def format_table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'reached':>8}{'95 % interval':>16}{'gap at end':>12}{'at start':>10}  by"]
    for name, r in results.items():
        interval = f"{r['low']:.2f} to {r['high']:.2f}"
        lines.append(
            f"{r['reached']:>8.2f}{interval:>16}{r['gap']:>12.3f}{r['gap_at_start']:>10.3f}  "
            f"{name}"
        )
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> int:
    from worldmodel.evaluation.plotting import media
    from worldmodel.system import runtime

    runs = open_runs(args.runs, args.changes)
    run = next(iter(runs.values()))
    runtime.configure_torch(run.config.run.threads)
    goal_task = make_goal_task(run, args.seed)
    players = {
        f"{path} ({run.config.goal.distance})": partial(make_planner_policy, run)
        for path, run in runs.items()
    }
    players["random actions"] = partial(
        make_random_policy, goal_task, np.random.default_rng(args.seed)
    )
    results, rows = {}, []
    bar = Progress(len(players) * args.episodes, "episodes")
    for name, policy_to in players.items():
        episodes = []
        for number in range(args.episodes):
            played, shown = goal_task.play_episode(number, args.steps, policy_to)
            episodes.append(played)
            rows += [make_strip(played, shown)] if number == 0 else []
            bar.update(len(results) * args.episodes + number + 1, name)
        results[name] = summarise(episodes, goal_task.within)
    bar.close()
    out = Path(args.out)
    media.save_png(out, media.enlarge(np.concatenate(rows), 128 * len(rows)))
    about = {
        "task": run.config.env.task,
        "steps": args.steps,
        "within": goal_task.within,
        "seed": args.seed,
    }
    out.with_suffix(".json").write_text(json.dumps({**about, "players": results}, indent=1) + "\n")
    played = next(iter(results.values()))["steps"]
    say(f"{run.config.env.task}: within {goal_task.within} of the goal after {played:.0f} steps")
    say(format_table(results))
    say(f"  {out}\n  {out.with_suffix('.json')}")
    return 0


def parse_png_path(text: str) -> str:
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} must end in .png")
    return text


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/reach.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, all of one task")
    parser.add_argument(
        "--episodes", type=parse_positive, default=20, help="episodes of each (20)"
    )
    parser.add_argument(
        "--steps", type=parse_positive, default=40, help="agent steps of an episode (40)"
    )
    parser.add_argument(
        "--seed", type=parse_natural, default=0, help="seed of episodes and goals (0)"
    )
    parser.add_argument(
        "--out",
        type=parse_png_path,
        default="reach.png",
        help="pictures of the first episode (reach.png)",
    )
    args = parse_with_changes(parser, argv)

    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
