"""Measure how many goal pictures saved runs reach, and keep a table of all of them.

python benchmarks/goal_images.py RUN [RUN ...] [--planner.KEY VALUE ...]
python benchmarks/goal_images.py RUN [RUN ...] --limits
python benchmarks/goal_images.py --table

Each run plays the same episodes of its task towards the same goal pictures, as in
benchmarks/reach.py. The runs may be of different tasks and have any dynamics and objective. Each
adds a line to the file of --out, and so do, once per task, random actions and an expert that knows
the goal's state. What the file holds already is not played again. --table prints the file. Plans
of --together episodes are searched at once, from the means of their posteriors; "ms per step" is
the share of one of them.

--limits says what limits a run of a built-in task by forward_contrastive: two more players have
its planner and step plans in the true simulator. One compares the true pictures with the goal's by
the run's embedding, the other knows the true distance.
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

from benchmarks.goal_share import make_mean_planner_policy
from benchmarks.reach import (
    TASKS,
    Episode,
    GoalTask,
    Policy,
    describe_scene,
    make_goal_task,
    make_random_policy,
    open_runs,
    read_state,
    summarise,
)
from worldmodel import envs
from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.errors import UsageError
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


class TrueSteps:
    """Makes scores of plans in the true simulator: minus the distance, averaged over the steps."""

    def __init__(self, run: Any, goal_task: GoalTask, shown: np.ndarray, knows_distance: bool):
        self.run, self.goal_task, self.knows_distance = run, goal_task, knows_distance
        self.there = read_state(goal_task.other)
        self.goal = self.encode(shown[None])
        self.copy = make_goal_task(run, 0).env  # to step in
        self.copy.reset(seed=0)

    def encode(self, pictures: np.ndarray) -> Any:
        """What the contrastive forward model sees in pictures (N,H,W,3): (N,Z)."""
        import torch

        model = self.run.model
        embed = model.encode({"image": torch.from_numpy(pictures)[None]})[0]
        return model.objectives["forward_contrastive"].see(embed)

    def __call__(
        self, model: Any, state: Any, generator: Any, memory: Any
    ) -> Callable[[Any], Any]:
        return self.score

    def start_memory(self, model: Any, batch: int) -> dict[str, Any]:
        return {}

    def score(self, plans: Any) -> Any:
        """Scores (1,N) of plans (1,N,H,A)."""
        import torch

        found = [self.follow(plan.float().cpu().numpy()) for plan in plans[0]]
        if self.knows_distance:
            return -torch.tensor([[np.mean(gaps) for gaps, _ in found]], dtype=torch.float32)
        seen = self.encode(np.concatenate([pictures for _, pictures in found]))
        gaps = (seen - self.goal).square().sum(-1).unflatten(0, plans.shape[1:3])
        return -gaps.mean(1)[None]

    def follow(self, plan: np.ndarray) -> tuple[list[float], np.ndarray]:
        """The gap after each step of a plan (H,A), and the picture then (H,H,W,3)."""
        self.copy.unwrapped.set_state(self.goal_task.env.unwrapped.state())
        gaps, pictures = [], []
        for action in plan:
            for _ in range(self.run.config.env.repeat):
                self.copy.unwrapped.advance(action)
            gaps.append(self.goal_task.gap(read_state(self.copy), self.there))
            if not self.knows_distance:
                pictures.append(self.copy.render())
        return gaps, np.array(pictures)


def make_informed_policy(
    run: Any, goal_task: GoalTask, knows_distance: bool, shown: np.ndarray
) -> Policy:
    """Make a policy that plans as the run does, in the true simulator."""
    run.agent.behavior.make_score = TrueSteps(run, goal_task, shown, knows_distance)
    return run.act


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


class Clock:
    """Sums up the seconds in which policies choose actions."""

    seconds = 0.0

    def watch(self, policy: Policy) -> Policy:
        def act(seen: np.ndarray, carry: Any) -> tuple[np.ndarray, Any]:
            began = time.perf_counter()
            chosen = policy(seen, carry)
            self.seconds += time.perf_counter() - began
            return chosen

        return act


def play_one_by_one(
    goal_task: GoalTask,
    policy_to: Callable[[np.ndarray], Policy],
    args: argparse.Namespace,
    report: Callable[[int], None],
    clock: Clock,
) -> list[Episode]:
    episodes = []
    for number in range(args.episodes):
        played = goal_task.play_episode(
            number, args.steps, lambda shown: clock.watch(policy_to(shown))
        )
        episodes.append(played[0])
        report(number + 1)
    return episodes


def play_side_by_side(
    run: Any, args: argparse.Namespace, report: Callable[[int], None], clock: Clock
) -> list[Episode]:
    """Play episodes by plans, as many at a time as --together says: one search plans for all."""
    episodes: list[Episode] = []
    tasks = [make_goal_task(run, args.seed) for _ in range(min(args.together, args.episodes))]
    while len(episodes) < args.episodes:
        numbers = range(len(episodes), min(len(episodes) + len(tasks), args.episodes))
        playing = tasks[: len(numbers)]
        starts = [t.start_episode(n) for t, n in zip(playing, numbers, strict=True)]
        seen, shown, goals = (list(part) for part in zip(*starts, strict=True))
        gaps = [measure_gaps(playing, goals)]
        policy, carry = clock.watch(make_mean_planner_policy(run, np.stack(shown))), None
        for _ in range(args.steps):
            actions, carry = policy(np.stack(seen), carry)
            steps = [t.env.step(action) for t, action in zip(playing, actions, strict=True)]
            if any(terminated or truncated for _, _, terminated, truncated, _ in steps):
                raise UsageError(f"{run.path}: an episode ended before --steps {args.steps}")
            seen = [step[0] for step in steps]
            gaps.append(measure_gaps(playing, goals))
        episodes += [Episode(list(own), []) for own in zip(*gaps, strict=True)]
        report(len(episodes))
    return episodes


def measure_gaps(tasks: list[GoalTask], goals: list[np.ndarray]) -> list[float]:
    return [t.gap(read_state(t.env), goal) for t, goal in zip(tasks, goals, strict=True)]


def play(
    make_episodes: Callable[..., list[Episode]],
    within: float,
    args: argparse.Namespace,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Play all episodes: the share of goals reached, and milliseconds to choose an action."""
    clock = Clock()
    episodes = make_episodes(args, report, clock)
    steps = sum(len(played.gaps) - 1 for played in episodes)
    found = summarise(episodes, within)
    ever = np.mean([min(played.gaps) <= within for played in episodes])
    return {**found, "ever": float(ever), "ms": round(1000 * clock.seconds / steps, 1)}


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
        beside = {"start": "mean", "together": min(args.together, args.episodes)}
        random = partial(make_random_policy, goal_task, np.random.default_rng(args.seed))
        expert = partial(make_expert_policy, goal_task)
        players: dict[str, tuple[Any, dict[str, Any]]] = {
            "random actions": (partial(play_one_by_one, goal_task, random), {}),
            "expert": (partial(play_one_by_one, goal_task, expert), {}),
            name: (partial(play_side_by_side, run), {**describe_run(run), **beside}),
        }
        if args.limits:
            for more, knows in (("true steps", False), ("true steps and distance", True)):
                informed = partial(make_informed_policy, run, goal_task, knows)
                about = {**describe_run(run), "given": more}
                players[f"{name}, {more}"] = partial(play_one_by_one, goal_task, informed), about
        for player, (make_episodes, about) in players.items():
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
            report = partial(bar.update, text=player)
            line |= play(make_episodes, goal_task.within, args, report)
            bar.close()
            known.append(line)
            yield line


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
    model += f", {line['given']}" if "given" in line else ""
    search = f"{line['planner']}, {line['horizon']} steps"
    return [model, weights or "pixels", f"{line['distance']}, {line['at']}", search, *figures]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/goal_images.py",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run directories")
    parser.add_argument("--limits", action="store_true", help="plan in the truth as well")
    parser.add_argument("--table", action="store_true", help="print the tables of the file")
    parser.add_argument("--episodes", type=parse_positive, default=50, help="of each (50)")
    parser.add_argument(
        "--together", type=parse_positive, default=25, help="episodes side by side (25)"
    )
    parser.add_argument("--steps", type=parse_positive, default=40, help="of an episode (40)")
    parser.add_argument("--seed", type=parse_natural, default=0, help="of episodes, goals (0)")
    parser.add_argument("--out", type=Path, default=Path(PLACE), help=f"the lines ({PLACE})")
    args = parse_with_changes(parser, argv)

    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: write_lines(args))


def write_lines(args: argparse.Namespace) -> int:
    from worldmodel.system import runtime

    runs = [lengthen(open_runs([path], args.changes)[path], args.steps) for path in args.runs]
    for run in runs if args.limits else []:
        lacks = "forward_contrastive" not in run.model.objectives
        if lacks or run.config.env.task.startswith("dmc:"):
            raise UsageError(
                f"--limits: {run.path} is of {run.config.env.task} by "
                f"{', '.join(run.model.objectives) or 'no objective'}; take a built-in task and "
                "forward_contrastive"
            )
    known = read_json_lines(args.out)
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
