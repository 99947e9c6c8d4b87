"""What each representation objective is worth, clean and before moving backgrounds: one table,
three pictures.

represent.py [pendulum|cartpole] [--seeds N] [--only NAME ...] [--where clean distracted] [--out
DIR] [--summary]

Every cell is a training of its own (`train.py`, resumed if it was stopped, left alone if it is
done, left out with a line if it diverges) and a linear read-out of the simulator's state on shaken
episodes (`shaken.py`). --summary trains nothing and shows what there is. The rank is that of the
features in training's last batches. Seconds per update are CPU time of the world model alone, all
threads together, without the probe that draws for those who can't.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compute import model_seconds
from benchmarks.shaken import draw_seen, read_out
from worldmodel import registry
from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.config import loading
from worldmodel.config.loading import Config
from worldmodel.errors import RunError
from worldmodel.evaluation.plotting.style import COLORS, get_line_style, load_pyplot, save_figure
from worldmodel.run_directory import RunDir, make_slug
from worldmodel.spaces import ActionSpace

ROOT = Path(__file__).resolve().parent.parent
WHERE = ("clean", "distracted")
DIVERGED = 5  # the exit code
MIXES = {
    "inverse+contrastive": "{contrastive: 1.0, inverse: 0.1}",
    "contrastive+reward_only": "{contrastive: 1.0, reward_only: 1.0}",
}
OBJECTIVES = {
    name: ["--loss.objective", MIXES.get(name, f"{{{name}: 1.0}}")]
    for name in [*registry.OBJECTIVES, *MIXES]
}
# The published 2,500 prototypes, frozen for 10,000 updates, would outnumber a batch's steps and
# never move.
OBJECTIVES["prototypes"] += ["--prototypes.count", "128", "--prototypes.freeze", "150"]
# Rewards weigh a hundred times as much as elsewhere (fifty are as much where eight are added up):
# at ten their squared errors are nothing beside the KL where no picture has to be drawn. Many
# frames for few updates: each episode has a background of its own. Plans are a quarter of the
# preset's (models trained with those are driven as well by these), so that a cell takes minutes.
JOBS: dict[str, tuple[str, ActionSpace, list[str]]] = {
    "pendulum": (
        "pendulum",
        ActionSpace(1),
        [
            "pendulum",
            "--env.size",
            "[32,32]",
            "--model.cnn",
            "[16,32,64]",
            "--loss.reward",
            "1000",
            "--optim.eps",
            "1e-8",
            "--run.frames",
            "12000",
            "--train.prefill",
            "3000",
            "--train.pretrain",
            "300",
            "--train.updates_per_step",
            "0.15",
            "--planner.candidates",
            "100",
            "--planner.iterations",
            "2",
            "--planner.horizon",
            "12",
            "--log.every",
            "500",
            "--log.eval",
            "3000",
        ],
    ),
    "cartpole": (
        "dmc:cartpole_swingup",
        ActionSpace(1),
        [
            "pendulum",
            "--env.repeat",
            "8",
            "--env.size",
            "[32,32]",
            "--model.cnn",
            "[16,32,64]",
            "--loss.reward",
            "50",
            "--optim.eps",
            "1e-8",
            "--run.frames",
            "128000",
            "--train.prefill",
            "24000",
            "--train.pretrain",
            "300",
            "--train.updates_per_step",
            "0.15",
            "--planner.candidates",
            "100",
            "--planner.iterations",
            "2",
            "--planner.horizon",
            "12",
            "--log.every",
            "4000",
            "--log.eval",
            "16000",
        ],
    ),
}


def train(job: str, name: str, where: str, seed: int) -> None:
    """Train one cell if it is not done; what train.py says goes to the terminal, and if it is
    stopped so is all.
    """
    if finished(job, name, where, seed):
        return
    code = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words(job, name, where, seed)], cwd=ROOT
    ).returncode
    if code and code != DIVERGED:
        sys.exit(code)
    if code:
        sys.stderr.write(f"{place(job, name, where, seed)} diverged and is left out\n")


def words(job: str, name: str, where: str, seed: int) -> list[str]:
    """What train.py is told."""
    return [
        *JOBS[job][2],
        "--env.task",
        task_of(job, where),
        *OBJECTIVES[name],
        "--run.name",
        label(name, where),
        "--run.seed",
        str(seed),
    ]


def place(job: str, name: str, where: str, seed: int) -> Path:
    """Where a cell's run lies."""
    return ROOT / "runs" / make_slug(task_of(job, where)) / label(name, where) / f"seed{seed}"


def task_of(job: str, where: str) -> str:
    return JOBS[job][0] if where == "clean" else f"distract:{JOBS[job][0]}"


def label(name: str, where: str) -> str:
    return f"represent_{name.replace('+', '_')}_{where}"


def finished(job: str, name: str, where: str, seed: int) -> bool:
    """Whether a cell's training has closed; SystemExit where that was one of other settings."""
    run = RunDir(place(job, name, where, seed))
    if not run.is_done(0, 0):
        return False
    try:
        found = run.load_config()
    except RunError as error:
        sys.exit(str(error))
    if found != _wanted(tuple(words(job, name, where, seed))):
        sys.exit(f"{run.path} was trained with other settings than this table's: move it away")
    return True


@cache
def _wanted(told: tuple[str, ...]) -> Config:
    return loading.parse(list(told))


def gather(job: str, seeds: int) -> list[dict]:
    """One line for each cell that is done: its evaluations' frames and returns, the state's mean
    R^2, the rank.
    """
    lines = []
    for name in OBJECTIVES:
        for where in WHERE:
            for seed in range(seeds):
                run = place(job, name, where, seed)
                if not finished(job, name, where, seed):
                    continue
                known = [x for x in read_out(run) if x is not None]
                scores, losses = (
                    read_json_lines(run / "scores.jsonl"),
                    read_json_lines(run / "metrics.jsonl"),
                )
                ranks = [x["train/feat/rank"] for x in losses if "train/feat/rank" in x]
                lines.append(
                    {
                        "job": job,
                        "objective": name,
                        "where": where,
                        "seed": seed,
                        "r2": float(np.mean(known)),
                        "rank": ranks[-1],
                        "return": scores[-1]["eval/score"],
                        "minutes": scores[-1].get("time/minutes"),
                        "frames": [x["frames"] for x in scores],
                        "returns": [x["eval/score"] for x in scores],
                    }
                )
    return lines


def mean_of(lines: list[dict], name: str, where: str, key: str) -> str:
    """Mean and every seed of one cell, as text."""
    own = [x[key] for x in lines if x["objective"] == name and x["where"] == where]
    digits = {"r2": 2, "rank": 1}.get(key, 0)
    return (
        f"{np.mean(own):.{digits}f} ({', '.join(f'{x:.{digits}f}' for x in own)})" if own else "-"
    )


def kept(lines: list[dict], name: str) -> str:
    """The share of the clean return that is left before moving backgrounds, by the seeds that have
    both.
    """
    clean, distracted = (
        {x["seed"]: x["return"] for x in lines if x["objective"] == name and x["where"] == where}
        for where in WHERE
    )
    both = clean.keys() & distracted.keys()
    return f"{sum(distracted[s] for s in both) / sum(clean[s] for s in both):.0%}" if both else "-"


def seconds(job: str, names: list[str]) -> dict[str, float]:
    """CPU seconds of an update of the world model by each of some objectives: medians, taken in
    turns.
    """
    _, action, preset = JOBS[job]
    told = {n: [*preset, *OBJECTIVES[n], "--loss.probe", "false"] for n in names}
    turns = [{n: model_seconds(words, action, 7) for n, words in told.items()} for _ in range(5)]
    return {n: float(np.median([turn[n] for turn in turns])) for n in names}


def table(lines: list[dict], speed: dict[str, float]) -> str:
    """All of it in Markdown."""
    rows = [
        "| objective | return, clean | distracted | kept | state R^2, clean | distracted | "
        "rank, clean | distracted "
        "| CPU s/update | of decoding |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, took in speed.items():
        cells = [mean_of(lines, name, where, "return") for where in WHERE]
        known = [mean_of(lines, name, where, key) for key in ("r2", "rank") for where in WHERE]
        share = f"{took / speed['reconstruction']:.0%}" if "reconstruction" in speed else "-"
        rows.append(
            f"| `{name}` | "
            + " | ".join([*cells, kept(lines, name), *known, f"{took:.3f}", share])
            + " |"
        )
    return "\n".join(rows) + "\n"


def draw(lines: list[dict], target: Path) -> None:
    """Closing returns and read-outs as bars, a dot for each seed; an R^2 below 0 is drawn as 0."""
    figure, axes = load_pyplot().subplots(
        1, 2, figsize=(10, 4.2), dpi=110, sharey=True, layout="constrained"
    )
    names = list(dict.fromkeys(x["objective"] for x in lines))[::-1]
    for axis, key, title in zip(
        axes, ("return", "r2"), ("return", "linear read-out of the state, R²"), strict=True
    ):
        for i, where in enumerate(WHERE):
            axis.barh(0, 0, color=COLORS[i], alpha=0.5, label=where)
            for y, name in enumerate(names):
                own = [
                    max(x[key], 0.0)
                    for x in lines
                    if x["objective"] == name and x["where"] == where
                ]
                at = y + 0.2 - 0.4 * i
                if own:
                    axis.barh(at, np.mean(own), 0.36, color=COLORS[i], alpha=0.5)
                    axis.plot(own, [at] * len(own), "o", ms=3.5, color=COLORS[i])
        axis.set(title=f"{title} (higher is better)", yticks=range(len(names)), yticklabels=names)
        axis.set_xlim(left=0)
    axes[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, target)


def draw_curves(lines: list[dict], target: Path) -> None:
    """Evaluations along training: every seed thin, their mean thick, a style for each
    objective.
    """
    figure, axes = load_pyplot().subplots(
        1, 2, figsize=(11, 4.2), dpi=110, sharey=True, layout="constrained"
    )
    for axis, where in zip(axes, WHERE, strict=True):
        for number, name in enumerate(dict.fromkeys(x["objective"] for x in lines)):
            own = [x for x in lines if x["objective"] == name and x["where"] == where]
            style = {**get_line_style(number), "ms": 4}
            for x in own:
                axis.plot(x["frames"], x["returns"], lw=0.6, alpha=0.35, color=style["color"])
            if own:
                axis.plot(
                    own[0]["frames"],
                    np.mean([x["returns"] for x in own], 0),
                    lw=1.8,
                    label=name,
                    **style,
                )
        axis.set(
            title=f"{where}: mean return of an evaluation (higher is better)",
            xlabel="environment frames",
        )
    axes[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, target)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", nargs="?", choices=JOBS, default="pendulum")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), metavar="NAME"
    )
    parser.add_argument("--where", nargs="+", choices=WHERE, default=WHERE)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "objectives")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    cells = [
        (seed, name, where)
        for seed in range(args.seeds)
        for name in args.only
        for where in args.where
    ]
    for seed, name, where in [] if args.summary else cells:
        train(args.job, name, where, seed)
    lines = gather(args.job, args.seeds)
    if not lines:
        sys.exit("no training of this table is done: nothing was written")
    names = list(dict.fromkeys(x["objective"] for x in lines))
    target = args.out / args.job
    target.mkdir(parents=True, exist_ok=True)
    (target / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    made = table(lines, seconds(args.job, names))
    (target / "table.md").write_text(made)
    draw(lines, target / "objectives.png")
    draw_curves(lines, target / "curves.png")
    first = {x["objective"]: x["seed"] for x in reversed(lines) if x["where"] == "distracted"}
    draw_seen(
        {n: place(args.job, n, "distracted", first[n]) for n in names if n in first},
        target / "seen.png",
    )
    sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
