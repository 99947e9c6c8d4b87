"""What each representation objective is worth, clean and before moving backgrounds: one table, one plot.

represent.py [pendulum|cartpole] [--seeds N] [--only NAME ...] [--where clean distracted] [--out DIR] [--summary]

Every cell is a training of its own (`train.py`, resumed if it was stopped, left alone if it is done) and a linear
read-out of the simulator's state, on the same episodes of shaking for all: what an agent does of itself, such as
balance, may hardly move the state. --summary trains nothing and draws what there is. The rank is that of the features
in training's last batches. Seconds per update are CPU time of the world model alone, all threads together, without
the probe that draws for those who can't.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import envs
from benchmarks.compute import model_seconds
from worldmodel import build
from worldmodel.agent import part
from worldmodel.api import Run
from worldmodel.credible import read_lines
from worldmodel.evaluation.media import enlarge, save_png
from worldmodel.evaluation.plots import COLORS, pyplot, save
from worldmodel.evaluation.state_probe import held_out_r2
from worldmodel.rundir import RunDir, slug
from worldmodel.types import ActionSpace

ROOT = Path(__file__).resolve().parent.parent
WHERE = ("clean", "distracted")
SHAKEN = 12  # episodes of the read-out
CHANGE = 1 / 6  # how often an action is drawn anew in them: a pendulum comes over its upper half that way
OBJECTIVES = {name: f"{{{name}: 1.0}}" for name in build.OBJECTIVES} | {
    "inverse+contrastive": "{contrastive: 1.0, inverse: 0.1}",
    "contrastive+reward_only": "{contrastive: 1.0, reward_only: 1.0}",
}
# Rewards weigh a hundred times as much as elsewhere: at ten their squared errors are nothing beside the KL where no
# picture has to be drawn. Many frames for few updates: each episode has a background of its own. Plans are a quarter of
# the preset's (models trained with those are driven as well by these), so that a cell takes minutes.
JOBS: dict[str, tuple[str, ActionSpace, list[str]]] = {
    "pendulum": ("pendulum", ActionSpace(1), [
        "pendulum", "--env.size", "[32,32]", "--model.cnn", "[16,32,64]", "--loss.reward", "1000", "--optim.eps",
        "1e-8", "--run.frames", "12000", "--train.prefill", "3000", "--train.pretrain", "300", "--train.ratio", "0.15",
        "--planner.candidates", "100", "--planner.iterations", "2", "--planner.horizon", "12",
        "--log.every", "500", "--log.eval", "3000"]),
    "cartpole": ("dmc:cartpole_balance", ActionSpace(1), ["quickstart"]),
}  # fmt: skip


def train(job: str, name: str, where: str, seed: int) -> None:
    """Train one cell if it is not done."""
    if not finished(place(job, name, where, seed)):
        call("train.py", *JOBS[job][2], "--env.task", task_of(job, where), "--loss.objective", OBJECTIVES[name],
             "--run.name", label(name, where), "--run.seed", str(seed))  # fmt: skip


def call(script: str, *arguments: str) -> None:
    """Run one of the project's programs; what it says goes to the terminal, and if it stops so does this."""
    code = subprocess.run([sys.executable, str(ROOT / script), *arguments], cwd=ROOT).returncode
    if code:
        sys.exit(code)


def place(job: str, name: str, where: str, seed: int) -> Path:
    """Where a cell's run lies."""
    return ROOT / "runs" / slug(task_of(job, where)) / label(name, where) / f"seed{seed}"


def task_of(job: str, where: str) -> str:
    return JOBS[job][0] if where == "clean" else f"distract:{JOBS[job][0]}"


def label(name: str, where: str) -> str:
    return f"represent_{name.replace('+', '_')}_{where}"


def finished(run: Path) -> bool:
    """Whether a run has closed, at whatever number of frames."""
    return RunDir(run).is_done(0, 0)


def gather(job: str, seeds: int) -> list[dict]:
    """One line for each cell that is done: its evaluations' frames and returns, the state's mean R^2, the rank."""
    lines = []
    for name in OBJECTIVES:
        for where in WHERE:
            for seed in range(seeds):
                run = place(job, name, where, seed)
                if not finished(run):
                    continue
                known = [x for x in read_out(run) if x is not None]
                scores, losses = read_lines(run / "scores.jsonl"), read_lines(run / "metrics.jsonl")
                ranks = [x["train/feat/rank"] for x in losses if "train/feat/rank" in x]
                lines.append({
                    "job": job, "objective": name, "where": where, "seed": seed, "r2": float(np.mean(known)),
                    "rank": ranks[-1], "return": scores[-1]["eval/score"], "minutes": scores[-1].get("time/minutes"),
                    "frames": [x["frames"] for x in scores], "returns": [x["eval/score"] for x in scores],
                })  # fmt: skip
    return lines


def read_out(path: Path) -> list[float | None]:
    """R^2 by coordinate of the simulator's state on shaken episodes, kept beside the run once it is known."""
    kept = path / "eval" / "shaken.json"
    if not kept.is_file():
        run, env = opened(path)
        feats, states = [], []
        for seed in range(SHAKEN):
            seen = [(run.agent.model.rssm.feat(part(carry, "state/")), obs) for obs, carry in shaken(run, env, seed)]
            feats.append(torch.cat([feat for feat, _ in seen]).double().numpy())
            states.append(np.stack([obs["vector"] for _, obs in seen]).astype(np.float64))
        env.close()
        r2 = [None if x != x else x for x in held_out_r2(feats, states).tolist()]
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({"episodes": SHAKEN, "r2": r2}) + "\n")
    return json.loads(kept.read_text())["r2"]


def opened(path: Path) -> tuple[Run, Any]:
    """A run that does not think about what to do, and its environment before backgrounds that training never had."""
    run = Run.open(path).driven([("behavior.name", "random")])
    return run, envs.configured(run.config.env, run.config.distract)(obs="both", held_out=True)


@torch.no_grad()
def shaken(run: Run, env: Any, seed: int) -> Iterator[tuple[dict, dict]]:
    """What is seen in an episode of actions that are kept to for some steps each, and what the model makes of it."""
    generator, carry, over = np.random.default_rng(seed), None, False
    action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
    obs, _ = env.reset(seed=12345 + seed)
    while not over:
        _, carry = run.act(obs["image"], carry)
        yield obs, carry
        if generator.random() < CHANGE:
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        carry = {**carry, "prev_action": torch.from_numpy(action)[None]}
        obs, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated


def mean_of(lines: list[dict], name: str, where: str, key: str) -> str:
    """Mean and every seed of one cell, as text."""
    own = [x[key] for x in lines if x["objective"] == name and x["where"] == where]
    digits = {"r2": 2, "rank": 1}.get(key, 0)
    return f"{np.mean(own):.{digits}f} ({', '.join(f'{x:.{digits}f}' for x in own)})" if own else "-"


def kept(lines: list[dict], name: str) -> str:
    """The share of the clean return that is left before moving backgrounds."""
    means = [[x["return"] for x in lines if x["objective"] == name and x["where"] == where] for where in WHERE]
    return f"{np.mean(means[1]) / np.mean(means[0]):.0%}" if all(means) else "-"


def seconds(job: str) -> dict[str, float]:
    """CPU seconds of an update of the world model by each objective."""
    _, action, preset = JOBS[job]
    chosen = {name: ["--loss.objective", text, "--loss.probe", "false"] for name, text in OBJECTIVES.items()}
    return {name: model_seconds([*preset, *words], action, 9) for name, words in chosen.items()}


def table(lines: list[dict], speed: dict[str, float]) -> str:
    """All of it in Markdown."""
    rows = [
        "| objective | return, clean | distracted | kept | state R^2, clean | distracted | rank, clean | distracted "
        "| s/update |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in OBJECTIVES:
        cells = [mean_of(lines, name, where, "return") for where in WHERE]
        known = [mean_of(lines, name, where, key) for key in ("r2", "rank") for where in WHERE]
        numbers = [*cells, kept(lines, name), *known, f"{speed[name]:.3f}"]
        rows.append(f"| `{name}` | " + " | ".join(numbers) + " |")
    return "\n".join(rows) + "\n"


def draw(lines: list[dict], target: Path) -> None:
    """Closing returns and read-outs as bars, a dot for each seed."""
    figure, axes = pyplot().subplots(1, 2, figsize=(9, 4.2), dpi=110, sharey=True)
    names = [n for n in OBJECTIVES if any(x["objective"] == n for x in lines)][::-1]
    for axis, key, title in zip(axes, ("return", "r2"), ("return", "linear read-out of the state, R²"), strict=True):
        for i, where in enumerate(WHERE):
            for y, name in enumerate(names):
                own = [x[key] for x in lines if x["objective"] == name and x["where"] == where]
                at = y + 0.2 - 0.4 * i
                if own:
                    axis.barh(at, np.mean(own), 0.36, color=COLORS[i], alpha=0.5, label=where if y == 0 else None)
                    axis.plot(own, [at] * len(own), "o", ms=3.5, color=COLORS[i])
        axis.set(title=f"{title} (higher is better)", yticks=range(len(names)), yticklabels=names)
        axis.set_xlim(left=0)
    axes[0].legend(fontsize=8, loc="lower right")
    save(figure, target)


def draw_seen(job: str, target: Path, pictures: int = 10) -> None:
    """What each objective's decoder draws of the same pictures, a row each, the truth above; seed 0, distracted."""
    rows: list[np.ndarray] = []
    for name in OBJECTIVES:
        path = place(job, name, "distracted", 0)
        if not finished(path):
            continue
        run, env = opened(path)
        seen = [(obs["image"], run.draw(carry)) for obs, carry in islice(shaken(run, env, 0), 2, 3 * pictures, 3)]
        env.close()
        truth, drawn = (np.concatenate(row, 1) for row in zip(*seen, strict=True))
        rows += [drawn] if rows else [truth, drawn]
    if rows:
        sheet = np.concatenate(rows)
        save_png(target, enlarge(sheet, 2 * len(sheet)))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", choices=JOBS, default="pendulum")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), metavar="NAME")
    parser.add_argument("--where", nargs="+", choices=WHERE, default=WHERE)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "objectives")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    cells = [(seed, name, where) for seed in range(args.seeds) for name in args.only for where in args.where]
    for seed, name, where in [] if args.summary else cells:
        train(args.job, name, where, seed)
    lines = gather(args.job, args.seeds)
    target = args.out / args.job
    target.mkdir(parents=True, exist_ok=True)
    (target / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    made = table(lines, seconds(args.job))
    (target / "table.md").write_text(made)
    draw(lines, target / "objectives.png")
    draw_seen(args.job, target / "seen.png")
    sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
