"""Measure how many goal pictures saved runs reach, and keep a table of all of them.

python benchmarks/goal_images.py RUN [RUN ...] [--planner.KEY VALUE ...]
python benchmarks/goal_images.py --table

Each run plays the same episodes of its task towards the same goal pictures, as in
benchmarks/reach.py. The runs may be of different tasks and have any dynamics and objective. Each
adds a line to the file of --out, and so do, once per task, random actions and an expert that knows
the goal's state. What the file holds already is not played again. --table prints the file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reach import (
    TASKS,
    GoalTask,
    Policy,
    describe_scene,
    make_goal_task,
    make_planner_policy,
    make_random_policy,
    open_runs,
    summarise,
)
from worldmodel import envs
from worldmodel.programs.eval_options import parse_natural, parse_positive, parse_with_changes
from worldmodel.system.console import Progress, say

PLACE = "docs/results/goal_images/goal_images.jsonl"


def make_expert_policy(goal_task: GoalTask, shown: np.ndarray) -> Policy:
    """Make a policy that knows the state which the goal's picture shows."""
    world, there = goal_task.env.unwrapped, goal_task.other.unwrapped
    if hasattr(world, "physics"):
        pose = there.physics.data.qpos.copy()
        return lambda picture, carry: (turn_joints(world.physics, pose), carry)
    if hasattr(world, "bodies"):
        world.goal = there.bodies[0].x, there.bodies[0].y
    elif hasattr(world, "points"):
        world.goal = there.points
    else:
        world.goal = there.position
    expert = envs.load_expert(type(world).__name__.lower())
    return lambda picture, carry: (expert(goal_task.env), carry)


def turn_joints(physics: Any, pose: np.ndarray) -> np.ndarray:
    """The action of springs and dampers that turn the reacher's joints into a pose."""
    gap = pose - physics.data.qpos
    gap[0] = (gap[0] + np.pi) % (2 * np.pi) - np.pi  # the other joint cannot turn around
    return np.clip(4.0 * gap - 0.3 * physics.data.qvel, -1, 1).astype(np.float32)


def describe_run(run: Any) -> dict[str, Any]:
    """What the run's plans depend on: model, training and search."""
    c = run.config
    p = c.planner
    return {
        "dynamics": c.model.dynamics,
        "objective": {name: weight for name, weight in c.loss.objective.items() if weight},
        "encoder": c.model.encoder,
        "weights": sum(x.numel() for x in run.model.parameters()),
        "frames": run.frames,
        "run_seed": c.run.seed,
        "distance": c.goal.distance,
        "at": c.goal.at,
        "planner": p.name,
        "horizon": p.horizon,
        "candidates": p.candidates,
        "iterations": p.iterations,
    }


def play(
    goal_task: GoalTask,
    policy_to: Callable[[np.ndarray], Policy],
    args: argparse.Namespace,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Play all episodes: the share of goals reached, and milliseconds per step."""
    began, episodes = time.perf_counter(), []
    for number in range(args.episodes):
        episodes.append(goal_task.play_episode(number, args.steps, policy_to)[0])
        report(number + 1)
    steps = sum(len(played.gaps) - 1 for played in episodes)
    found = summarise(episodes, goal_task.within)
    ever = np.mean([min(played.gaps) <= goal_task.within for played in episodes])
    milliseconds = 1000 * (time.perf_counter() - began) / steps
    return {**found, "ever": float(ever), "ms": round(milliseconds, 1)}


def lengthen(run: Any, steps: int) -> Any:
    """The run, with episodes that last as long as the benchmark plays."""
    e = run.config.env
    run.config = replace(run.config, env=replace(e, time_limit=(steps + 1) * e.repeat))
    return run


def measure(
    runs: list[Any], args: argparse.Namespace, known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield a line for each player that `known` lacks."""
    for run in runs:
        goal_task, scene = make_goal_task(run, args.seed), describe_scene(run.config)
        task, name = scene.pop("task"), "/".join(run.path.resolve().parts[-3:])
        players: dict[str, tuple[Any, dict[str, Any]]] = {
            "random actions": (
                partial(make_random_policy, goal_task, np.random.default_rng(args.seed)),
                {},
            ),
            "expert": (partial(make_expert_policy, goal_task), {}),
            name: (partial(make_planner_policy, run), describe_run(run)),
        }
        for player, (policy_to, about) in players.items():
            line = {
                "task": task,
                "scene": scene,
                "player": player,
                "episodes": args.episodes,
                "steps": args.steps,
                "seed": args.seed,
                **about,
            }
            line = json.loads(json.dumps(line))  # as the file holds it
            if any(line.items() <= other.items() for other in known):
                continue
            bar = Progress(args.episodes, "episodes")
            line |= play(goal_task, policy_to, args, partial(bar.update, text=player))
            bar.close()
            known.append(line)
            yield line


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def format_tables(lines: list[dict[str, Any]]) -> str:
    """A Markdown table per task, best first."""
    tables = []
    for task in dict.fromkeys(line["task"] for line in lines):
        rows = [
            "| dynamics | objective | distance | planner | reached | 95 % | gap | ms per step |",
            "|---|---|---|---|---|---|---|---|",
        ]
        own = [line for line in lines if line["task"] == task]
        for line in sorted(own, key=lambda line: (-line["reached"], line["gap"])):
            rows.append("| " + " | ".join(format_cells(line)) + " |")
        start = own[0]["gap_at_start"]
        head = f"`{task}`: within {TASKS[task][1]}, gap at the start {start:.2f}"
        tables.append(head + "\n\n" + "\n".join(rows))
    return "\n\n".join(tables)


def format_cells(line: dict[str, Any]) -> list[str]:
    count = round(line["reached"] * line["episodes"])
    figures = [
        f"{count} of {line['episodes']}",
        f"{line['low']:.2f} to {line['high']:.2f}",
        f"{line['gap']:.3f}",
        f"{line['ms']:.0f}",
    ]
    if "dynamics" not in line:
        return [line["player"], "", "", "", *figures]
    weights = ", ".join(f"{name} {weight:g}" for name, weight in line["objective"].items())
    model = line["dynamics"] + (", spatial" if line["encoder"] == "spatial" else "")
    search = f"{line['planner']}, {line['horizon']} steps"
    return [model, weights or "pixels", f"{line['distance']}, {line['at']}", search, *figures]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/goal_images.py",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run directories")
    parser.add_argument("--table", action="store_true", help="print the tables of the file")
    parser.add_argument("--episodes", type=parse_positive, default=50, help="of each (50)")
    parser.add_argument("--steps", type=parse_positive, default=40, help="of an episode (40)")
    parser.add_argument("--seed", type=parse_natural, default=0, help="of episodes, goals (0)")
    parser.add_argument("--out", type=Path, default=Path(PLACE), help=f"the lines ({PLACE})")
    args = parse_with_changes(parser, argv)

    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: write_lines(args))


def write_lines(args: argparse.Namespace) -> int:
    from worldmodel.system import runtime

    runs = [lengthen(open_runs([path], args.changes)[path], args.steps) for path in args.runs]
    known = read_lines(args.out)
    for run in runs[:1]:
        runtime.configure_torch(run.config.run.threads)
    for line in measure(runs, args, known):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        share, gap = line["reached"], line["gap"]
        say(f"{line['task']}: {share:.2f} reached, gap {gap:.3f}  {line['player']}")
    if args.table:
        print(format_tables(known))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
