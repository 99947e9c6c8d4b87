"""Compare the representation objectives, with and without moving backgrounds.

represent.py [pendulum|cartpole] [--seeds N] [--only NAME ...] [--where clean distracted]
[--jobs N] [--out DIR] [--summary]

Writes one table and three pictures. Every cell is a training of its own and a linear readout of
the simulator's state on random episodes (`state_readout.py`). A training is resumed if it was
stopped, skipped if it is done, and left out with a message if it diverges. --summary trains
nothing and shows the finished cells. The rank is that of the features in training's last batches.
Seconds per update are CPU time of the world model alone, summed over threads, without the probe
decoder.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compute import measure_model_seconds
from benchmarks.state_readout import draw_pictures, measure_readout
from worldmodel import registry
from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.config import loading
from worldmodel.errors import RunError
from worldmodel.evaluation.plotting.style import COLORS, get_line_style, load_pyplot, save_figure
from worldmodel.run_directory import make_slug
from worldmodel.spaces import ActionSpace
from worldmodel.sweep.grid import Cell
from worldmodel.sweep.local_pool import LocalPool
from worldmodel.sweep.progress import STOPPED, SweepProgress

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
# The published 2,500 prototypes would outnumber a batch's steps, and their freeze of 10,000
# updates would outlast the training.
OBJECTIVES["prototypes"] += ["--prototypes.count", "128", "--prototypes.freeze", "150"]
# The reward loss weighs a hundred times as much as elsewhere (50 where eight rewards are summed):
# at ten it would vanish beside the KL of objectives without reconstruction. There are many frames
# for few updates because each episode has its own background. Plans have a quarter of the preset's
# size, with equal returns, so that a cell takes minutes.
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


def train_cells(job: str, cells: list[tuple[str, str, int]], jobs: int) -> None:
    """Train the cells (name, where, seed) that are not done; exit if one is stopped or fails."""
    pending = [make_cell(job, *cell) for cell in cells if not is_finished(job, *cell)]
    progress = SweepProgress(pending, ROOT / "runs" / "sweeps" / f"represent_{job}" / "logs")
    LocalPool(jobs, progress).train(pending)
    for cell in pending:
        if progress.codes.get(cell) == DIVERGED:
            sys.stderr.write(f"{cell.run.path} diverged and is left out\n")
    failed = [code for code in progress.codes.values() if code not in (0, DIVERGED)]
    if failed or len(progress.codes) < len(pending):
        sys.exit(next(iter(failed), STOPPED))


@cache
def make_cell(job: str, name: str, where: str, seed: int) -> Cell:
    """Make a training of the sweep; its run lies in this checkout, wherever it is started."""
    words = (*make_arguments(job, name, where, seed), "--run.root", str(ROOT / "runs"))
    return Cell(words, loading.parse(words))


def make_arguments(job: str, name: str, where: str, seed: int) -> list[str]:
    """Make train.py's arguments for a cell."""
    return [
        *JOBS[job][2],
        "--env.task",
        name_task(job, where),
        *OBJECTIVES[name],
        "--run.name",
        name_run(name, where),
        "--run.seed",
        str(seed),
    ]


def find_run_directory(job: str, name: str, where: str, seed: int) -> Path:
    """Return the run directory of a cell."""
    return ROOT / "runs" / make_slug(name_task(job, where)) / name_run(name, where) / f"seed{seed}"


def name_task(job: str, where: str) -> str:
    return JOBS[job][0] if where == "clean" else f"distract:{JOBS[job][0]}"


def name_run(name: str, where: str) -> str:
    return f"represent_{name.replace('+', '_')}_{where}"


def is_finished(job: str, name: str, where: str, seed: int) -> bool:
    """Say whether a cell's training is done; SystemExit if it had other settings."""
    cell = make_cell(job, name, where, seed)
    try:
        return cell.run.is_trained(cell.config)
    except RunError as error:
        sys.exit(str(error))


def gather_results(job: str, seeds: int) -> list[dict]:
    """Collect one line per finished cell: evaluations, mean R^2 of the state, and rank."""
    lines = []
    for name in OBJECTIVES:
        for where in WHERE:
            for seed in range(seeds):
                run = find_run_directory(job, name, where, seed)
                if not is_finished(job, name, where, seed):
                    continue
                known = [x for x in measure_readout(run) if x is not None]
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


def format_mean(lines: list[dict], name: str, where: str, key: str) -> str:
    """Format the mean and every seed of one cell."""
    own = [x[key] for x in lines if x["objective"] == name and x["where"] == where]
    digits = {"r2": 2, "rank": 1}.get(key, 0)
    return (
        f"{np.mean(own):.{digits}f} ({', '.join(f'{x:.{digits}f}' for x in own)})" if own else "-"
    )


def format_kept_share(lines: list[dict], name: str) -> str:
    """Format the share of the clean return that is kept with moving backgrounds.

    Only seeds with both trainings count.
    """
    clean, distracted = (
        {x["seed"]: x["return"] for x in lines if x["objective"] == name and x["where"] == where}
        for where in WHERE
    )
    both = clean.keys() & distracted.keys()
    return f"{sum(distracted[s] for s in both) / sum(clean[s] for s in both):.0%}" if both else "-"


def measure_cpu_seconds(job: str, names: list[str]) -> dict[str, float]:
    """Measure median CPU seconds of a world-model update with each objective, interleaved."""
    _, action, preset = JOBS[job]
    arguments = {n: [*preset, *OBJECTIVES[n], "--loss.probe", "false"] for n in names}
    turns = [
        {n: measure_model_seconds(words, action, 7) for n, words in arguments.items()}
        for _ in range(5)
    ]
    return {n: float(np.median([turn[n] for turn in turns])) for n in names}


def format_table(lines: list[dict], speed: dict[str, float]) -> str:
    """Format the whole table in Markdown."""
    rows = [
        "| objective | return, clean | distracted | kept | state R^2, clean | distracted | "
        "rank, clean | distracted "
        "| CPU s/update | of decoding |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, took in speed.items():
        cells = [format_mean(lines, name, where, "return") for where in WHERE]
        known = [format_mean(lines, name, where, key) for key in ("r2", "rank") for where in WHERE]
        share = f"{took / speed['reconstruction']:.0%}" if "reconstruction" in speed else "-"
        rows.append(
            f"| `{name}` | "
            + " | ".join([*cells, format_kept_share(lines, name), *known, f"{took:.3f}", share])
            + " |"
        )
    return "\n".join(rows) + "\n"


def draw_bars(lines: list[dict], target: Path) -> None:
    """Draw final returns and R^2 (at least 0) as bars, with a dot for each seed."""
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
    """Draw evaluations along training: seeds thin, their mean thick, a style per objective."""
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
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "objectives")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    cells = [
        (name, where, seed)
        for seed in range(args.seeds)
        for name in args.only
        for where in args.where
    ]
    if not args.summary:
        train_cells(args.job, cells, args.jobs)
    lines = gather_results(args.job, args.seeds)
    if not lines:
        sys.exit("no training of this table is done: nothing was written")
    names = list(dict.fromkeys(x["objective"] for x in lines))
    target = args.out / args.job
    target.mkdir(parents=True, exist_ok=True)
    (target / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    made = format_table(lines, measure_cpu_seconds(args.job, names))
    (target / "table.md").write_text(made)
    draw_bars(lines, target / "objectives.png")
    draw_curves(lines, target / "curves.png")
    first = {x["objective"]: x["seed"] for x in reversed(lines) if x["where"] == "distracted"}
    draw_pictures(
        {n: find_run_directory(args.job, n, "distracted", first[n]) for n in names if n in first},
        target / "seen.png",
    )
    sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
