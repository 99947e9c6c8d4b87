"""Measure visual foresight on the task `pushing`: how many of the same goals are reached, and how.

python benchmarks/foresight.py RUN [RUN ...] [--goals N] [--by NAME ...] [--out FOLDER]
python benchmarks/foresight.py RUN --by pixel image --planner.candidates 60 --behavior.replan 2

RUNs are trained on `pushing`. Episodes start as theirs did, beside the object with
env.kwargs.start_near, unless --anywhere is given. No picture shows the goal. Runs that move
pixels (model.dynamics pixels) plan by the designated pixel, which is that nearest to the first
object's centre, and to a goal picture; others plan to the goal picture, by the distance that
their objective has learnt or else by belief. The same episodes are played by the scripted expert
and by random actions. An episode is a success if the object comes within 0.08 of its goal in 100
frames. The goal picture is the last of the expert's episode. `pixel-truth` is told where the
object is at each step, as the best tracking could, and `simulator` plans by the same cost in the
true simulator.

Each line of FOLDER/foresight.jsonl is JSON: a method and its successes, or for `errors` the mean
squared error of a run's predicted pictures by horizon, beside that of the last picture seen, or
for `replan` the processor seconds of one plan.
FOLDER/motion.png and motion.webp show an episode of the first run that moves pixels: where it
expects the designated pixel, and which way each pixel of its prediction has come.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel.envs.tasks.pushing import WITHIN

from benchmarks.reach import compute_share_interval
from worldmodel import build, envs
from worldmodel.config.schema import DISTANCE_OBJECTIVES
from worldmodel.errors import UsageError
from worldmodel.evaluation.plotting import media, style
from worldmodel.model.mean_image import to_pixels
from worldmodel.policy.goals import Goal, PixelGoal
from worldmodel.programs.eval_options import parse_positive, parse_with_changes
from worldmodel.saved_run import Run
from worldmodel.spaces import map_state, select_prefix
from worldmodel.system.runtime import autocast

METHODS = ("expert", "random", "errors", "replan", "simulator", "pixel", "pixel-truth", "image")
FRAMES = 100  # of an episode of the task
SHOWN = 6  # steps of the picture of motion
Act = Callable[[dict[str, Any]], np.ndarray]


@dataclass
class Episode:
    """Distances of the object from its goal, pictures, and seconds of each choice of action."""

    gaps: list[float]
    pictures: list[np.ndarray]
    seconds: list[float] = field(default_factory=list)
    success: bool = False
    tracking: list[float] = field(default_factory=list)  # expected distance from the truth, pixels


class Table:
    """The task of a run in the task's own length; and another where an action lasts one frame."""

    def __init__(self, run: Run, anywhere: bool):
        e = run.config.env
        if e.task != "pushing" or e.obs != "pixels":
            raise UsageError(f"{run.path}: it was not trained on pictures of pushing")
        kwargs = {**e.kwargs, "goal": False} | ({"start_near": False} if anywhere else {})
        self.size, self.repeat, self.settings, self.kwargs = e.size, e.repeat, e, kwargs
        e = replace(e, kwargs=kwargs, time_limit=None)
        self.env, self.steady = (
            envs.make_factory(keys, run.config.distract)(obs="pixels", held_out=True)
            for keys in (e, replace(e, repeat=1))
        )
        self.expert = envs.load_expert("pushing")

    def play(self, seed: int, start: Callable[[np.ndarray], Any], stop: bool = True) -> Episode:
        """Play an episode by `start(picture)`, which gives a function of pictures."""
        picture, _ = self.env.reset(seed=seed)
        played, act = Episode([self.task.measure_gap()], [picture]), start(picture)
        for _ in range(FRAMES // self.repeat):
            begin = time.process_time()
            action = act(picture)
            played.seconds.append(time.process_time() - begin)
            picture, _, terminated, truncated, _ = self.env.step(action)
            played.gaps.append(self.task.measure_gap())
            played.pictures.append(picture)
            played.success = played.success or played.gaps[-1] <= WITHIN
            if terminated or truncated or (stop and played.success):
                break
        return played

    @property
    def task(self) -> Any:
        return self.env.unwrapped

    def follow_expert(self, seed: int) -> Episode:
        """Play an episode by the expert, which acts at every frame."""
        moved, repeat = self.env, self.repeat
        self.env, self.repeat = self.steady, 1
        played = self.play(seed, lambda _: lambda _: self.expert(self.task))
        self.env, self.repeat = moved, repeat
        return played

    def find_pixels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column, with fractions, of the object's centre and of its goal, each (1,1,2)."""
        state, (height, width) = self.task.state(), self.size
        scale = min(height, width) / 2
        x, y = state[[4, 2]], state[[5, 3]]
        rows, columns = height / 2 - scale * y - 0.5, width / 2 + scale * x - 0.5
        here, there = torch.from_numpy(np.stack([rows, columns], 1)).float()[:, None, None]
        return here, there

    def make_goal(self, told: bool) -> PixelGoal:
        """The pixel nearest to the object's centre, and where it lies if the centre is at its goal
        and the object has not turned. An agent that is told the centre has the centre's own goal.
        """
        here, there = self.find_pixels()
        nearest = here.round()
        return PixelGoal(nearest.long(), there if told else there + nearest - here)


def make_random_policy(seed: int) -> Callable[[np.ndarray], Act]:
    generator = np.random.default_rng([seed, 1])
    return lambda _: lambda _: generator.uniform(-1, 1, 2).astype(np.float32)


def prepare(run: Run, score: str, changes: list[tuple[str, str]]) -> Run:
    """Let a run plan by the score; the goals of its episodes are given later."""
    learnt = any(run.config.loss.objective.get(name) for name in DISTANCE_OBJECTIVES)
    keys = [("behavior.name", "mpc"), ("planner.score", score), ("planner.proposals", "0")]
    if score == "pixel_distance":
        keys += [("goal.designated", "[[0, 0]]"), ("goal.pixels", "[[0, 0]]")]
    else:
        keys += [("goal.image", "given"), ("goal.run", "null")]
        keys += [("goal.distance", "learnt" if learnt else "belief")]
    return run.apply_overrides([*keys, *changes])


class Foresight:
    """An agent that plans to a goal of each episode, and what it remembers."""

    def __init__(
        self, run: Run, table: Table, goals: dict[int, np.ndarray], method: str = "pixel"
    ):
        self.run, self.table, self.goals = run, table, goals
        self.told, self.simulated = method == "pixel-truth", method == "simulator"
        self.pixels = run.config.planner.score == "pixel_distance"
        self.carry: Any = None
        self.played: list[float] = []
        self.seed = min(goals)

    def start(self, picture: np.ndarray) -> Act:
        self.run.generator.manual_seed(self.seed)
        self.carry, self.played = None, []
        if self.simulated:
            self.run.agent.behavior.make_score = NoMemory(
                TruePixelDistance(self.table, self.run.config.goal.last)
            )
            return self.act
        if self.pixels:
            goal: Any = self.table.make_goal(self.told)
        else:
            shown = torch.from_numpy(self.goals[self.seed])[None, None]
            keys = self.run.config.goal
            goal = Goal({"image": shown}, keys.distance, keys.at)
        maker = build.make_plan_score(self.run.config, None, lambda: goal)
        self.run.agent.behavior.make_score = maker
        return self.act

    def act(self, picture: np.ndarray) -> np.ndarray:
        if self.pixels and not self.simulated and self.carry is not None:
            self.follow()
        action, self.carry = self.run.act(picture, self.carry)
        return action

    def follow(self) -> None:
        """Note how far the pixel is tracked from the truth; where it is told, correct it."""
        (row, column), width = self.table.find_pixels()[0].flatten().tolist(), self.table.size[1]
        now = self.carry["behavior/memory/now"]
        places = torch.arange(now.shape[-1])
        gaps = torch.hypot((places // width - row).float(), (places % width - column).float())
        self.played.append(float((now[0, 0] * gaps).sum()))
        if self.told:
            near = (1 - (places // width - row).abs()).clamp(min=0)
            near = near * (1 - (places % width - column).abs()).clamp(min=0)
            self.carry["behavior/memory/now"] = near.expand_as(now).clone()


class TruePixelDistance:
    """The cost of `pixel_distance` in the true simulator, from where the task is now."""

    def __init__(self, table: Table, last: float):
        self.table, self.last = table, last
        self.simulator = envs.make_simulator(replace(table.settings, kwargs=table.kwargs))
        self.scale = min(table.size) / 2  # pixels in a unit of the table

    def __call__(self, candidates: torch.Tensor) -> torch.Tensor:
        (plans,) = candidates.double().numpy()
        states = np.repeat(self.table.task.state()[None], len(plans), 0)
        cost = np.zeros(len(plans))
        for t in range(plans.shape[1]):
            states = self.simulator.step(states, plans[:, t], 0)[0]
            gaps = self.scale * np.linalg.norm(states[:, 4:6] - states[:, 2:4], axis=1)
            cost += gaps * (self.last if t == plans.shape[1] - 1 else 1.0)
        return -torch.from_numpy(cost).float()[None]


@dataclass
class NoMemory:
    """Makes the same score for all states."""

    score: TruePixelDistance

    def __call__(self, *inputs: Any) -> TruePixelDistance:
        return self.score

    def start_memory(self, model: Any, batch: int) -> dict:
        return {}


def summarize(method: str, episodes: list[Episode], **about: Any) -> dict[str, Any]:
    hits = sum(e.success for e in episodes)
    low, high = compute_share_interval(hits, len(episodes))
    seconds = [s for e in episodes for s in e.seconds]
    tracking = [e.tracking[-1] for e in episodes if e.tracking]
    return {
        "by": method,
        **about,
        "goals": len(episodes),
        "successes": hits,
        "success": hits / len(episodes),
        "low": low,
        "high": high,
        "gap_at_start": float(np.mean([e.gaps[0] for e in episodes])),
        "gap": float(np.mean([min(e.gaps) for e in episodes])),
        "steps": float(np.mean([len(e.gaps) - 1 for e in episodes])),
        "ms_per_action": 1e3 * float(np.mean(seconds)),
        **({"tracked_within_pixels": float(np.mean(tracking))} if tracking else {}),
    }


@torch.no_grad()
def measure_errors(run: Run, table: Table, episodes: int, seed: int) -> dict[str, Any]:
    """Mean squared error of predicted pictures by horizon, after three pictures, beside copy.

    Episodes are random pushes that start beside an object and were not used in training.
    """
    horizon, context, errors = 12, 3, []
    env = envs.make_factory(run.config.env, run.config.distract)(obs="pixels", held_out=True)
    generator, space = np.random.default_rng(seed), run.action_space
    for number in range(episodes):
        pictures, actions = [env.reset(seed=seed + number)[0]], [np.zeros(space.size, np.float32)]
        for _ in range(context + horizon - 1):
            actions.append(generator.uniform(-1, 1, space.size).astype(np.float32))
            pictures.append(env.step(actions[-1])[0])
        rows = {"image": np.stack(pictures[:context]), "prev_action": np.stack(actions[:context])}
        state = run.agent.observe_rows(rows, run.generator)
        plan = torch.from_numpy(np.stack(actions[context:]))[None]
        with autocast(run.agent.device, run.agent.precision):
            future = run.model.dynamics.imagine(state, plan, run.generator)
            shown = run.model.decode(run.model.dynamics.features(future))["image"]
        truth = torch.from_numpy(np.stack(pictures[context:])).float() / 255
        last = torch.from_numpy(pictures[context - 1]).float() / 255
        found = [
            (x - truth).square().mean((1, 2, 3)) for x in (shown[0].float().clamp(0, 1), last)
        ]
        errors.append(torch.stack(found))
    mean = torch.stack(errors).mean(0)
    return {"by": "errors", "run": str(run.path), "episodes": episodes, "mse": mean[0].tolist(),
            "copy_mse": mean[1].tolist()}  # fmt: skip


@torch.no_grad()
def time_replans(run: Run, table: Table, seed: int, rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Yield the median processor seconds of a plan of one thread, in fp32 and in bf16."""
    picture = table.env.reset(seed=seed)[0]
    _, carry = run.observe(picture)
    behavior, state = run.agent.behavior, select_prefix(carry, "state/")
    fresh, p = torch.ones(1, dtype=torch.bool), run.config.planner
    about = {k: getattr(p, k) for k in ("horizon", "candidates", "iterations")}
    for precision in ("fp32", "bf16"):
        seconds = []
        for _ in range(rounds):
            begin = time.process_time()
            with autocast(run.agent.device, precision):
                behavior.plan(state, behavior.init(1), fresh, run.generator)
            seconds.append(time.process_time() - begin)
        about |= {"precision": precision, "cpu_seconds": float(np.median(seconds))}
        yield {"by": "replan", "score": p.score, "run": str(run.path), **about}


@torch.no_grad()
def draw_motion(foresight: Foresight, table: Table, seed: int, out: Path) -> None:
    """A clip and a strip of an episode: what is seen, with where the designated pixel is expected,
    and the next picture as predicted, with where its pixels come from.
    """
    pyplot = style.load_pyplot()
    dynamics, frames, chosen = foresight.run.model.dynamics, [], []
    foresight.seed, (height, width) = seed, table.size
    goal = []

    def start(picture: np.ndarray) -> Act:
        act = foresight.start(picture)
        goal[:] = table.find_pixels()[1].flatten().tolist()

        def choose(picture: np.ndarray) -> np.ndarray:
            action = act(picture)
            state, memory = (
                select_prefix(foresight.carry, k) for k in ("state/", "behavior/memory/")
            )
            states = map_state(state, torch.Tensor.float)
            move = torch.from_numpy(action)[None]
            after = dynamics.imagine_step(states, move)
            shown = foresight.run.model.decode(dynamics.features(after)[None])["image"][0, 0]
            chosen.append(
                (
                    picture,
                    to_pixels(shown).numpy(),
                    dynamics.measure_motion(states, move)[0].numpy(),
                    memory["now"][0, 0].view(height, width).numpy(),
                )
            )
            return action

        return choose

    table.play(seed, start)
    rows, columns = np.mgrid[0:height, 0:width]
    for seen, predicted, motion, expected in chosen:
        figure, axes = pyplot.subplots(1, 2, figsize=(5.2, 3.1), dpi=100)
        moves = np.hypot(*motion.transpose(2, 0, 1)) > 0.25
        axes[0].imshow(seen)
        axes[0].contour(expected / expected.max(), levels=[0.2, 0.6], colors=["#56b4e9", "white"])
        axes[0].plot(goal[1], goal[0], "x", color="#f0e442", markersize=9, mew=2)
        axes[0].set_title("seen; where the pixel\nis expected, its goal", fontsize=8)
        axes[1].imshow(predicted)
        axes[1].quiver(
            *(columns[moves], rows[moves], motion[moves][:, 1], motion[moves][:, 0]),
            angles="xy", scale_units="xy", scale=1, color="#f0e442", width=0.008,
        )  # fmt: skip
        axes[1].set_title("predicted; how its\npixels have moved", fontsize=8)
        for axis in axes:
            axis.set_axis_off()
        figure.tight_layout(pad=0.4)
        figure.canvas.draw()
        frames.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
        pyplot.close(figure)
    media.save_webp(out / "motion.webp", np.stack(frames), 4)
    picks = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
    rows_of_two = [np.concatenate([frames[i], frames[j]], 1) for i, j in picks.reshape(-1, 2)]
    media.save_png(out / "motion.png", np.concatenate(rows_of_two))


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each method and run; the expert comes first, as its pictures are goals."""
    torch.set_num_threads(1)
    runs = [Run.open(path) for path in args.runs]
    seeds = range(args.seed, args.seed + args.goals)
    goals: dict[tuple, dict[int, np.ndarray]] = {}
    drawn = False
    for number, run in enumerate(runs):
        table = Table(run, args.anywhere)
        place = table.size, str(run.config.env.kwargs)
        if place not in goals:
            played = {seed: table.follow_expert(seed) for seed in seeds}
            goals[place] = {seed: e.pictures[-1] for seed, e in played.items()}
            if "expert" in args.by and number == 0:
                yield summarize("expert", list(played.values()), repeat=1)
        if "random" in args.by and number == 0:
            chance = [table.play(seed, make_random_policy(seed)) for seed in seeds]
            yield summarize("random", chance, repeat=table.repeat)
        moves = run.config.model.dynamics == "pixels"
        if "errors" in args.by and run.model.can_draw:
            yield measure_errors(run, table, args.goals, args.seed)
        if "replan" in args.by and moves:
            for score in ("pixel_distance", "goal_distance"):
                own = prepare(run, score, args.changes)
                Foresight(own, table, goals[place]).start(table.env.reset(seed=args.seed)[0])
                yield from time_replans(own, table, args.seed)
        for method in ("simulator", "pixel", "pixel-truth", "image"):
            if method not in args.by or (method != "image" and not moves):
                continue
            score = "goal_distance" if method == "image" else "pixel_distance"
            own = prepare(run, score, args.changes)
            agent = Foresight(own, table, goals[place], method)
            episodes = []
            for seed in seeds:
                agent.seed = seed
                episodes.append(table.play(seed, agent.start))
                episodes[-1].tracking = agent.played
                print(f"{method} {seed} {episodes[-1].success}", file=sys.stderr, flush=True)
            p, about = own.config.planner, {"run": str(run.path)}
            about |= {k: getattr(p, k) for k in ("horizon", "candidates", "iterations")}
            about |= {"replan": own.config.behavior.replan, "repeat": table.repeat}
            about |= {"starts": "anywhere" if args.anywhere else "as trained"}
            if method == "image":
                about["distance"] = own.config.goal.distance
            yield summarize(method, episodes, **about)
        if moves and not drawn and "pixel" in args.by:
            own = prepare(run, "pixel_distance", args.changes)
            agent, drawn = Foresight(own, table, goals[place]), True
            draw_motion(agent, table, args.seed, Path(args.out))


def run_benchmark(args: argparse.Namespace) -> int:
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "foresight.jsonl").open("a") as file:
        for line in measure(args):
            print(json.dumps(line), flush=True)
            file.write(json.dumps(line) + "\n")
            file.flush()
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/foresight.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories of pushing")
    parser.add_argument("--goals", type=parse_positive, default=50, help="episodes of each (50)")
    parser.add_argument(
        "--anywhere", action="store_true", help="the pusher starts anywhere, not beside the object"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (0)")
    parser.add_argument("--by", nargs="+", choices=METHODS, default=METHODS, help="which methods")
    parser.add_argument("--out", default="foresight", help="folder of the results (foresight)")
    args = parse_with_changes(parser, argv)
    from worldmodel.programs.exit_codes import run_command

    return run_command(lambda: run_benchmark(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
