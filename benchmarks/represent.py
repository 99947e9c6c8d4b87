"""What each representation objective is worth, clean and before moving backgrounds: one table, one plot.

represent.py [pendulum|cartpole] [--seeds N] [--only NAME ...] [--where clean distracted] [--out DIR] [--summary]

Every cell is a training of its own (`train.py`, resumed if it was stopped, left alone if it is done) and a linear
read-out of the simulator's state (`eval.py RUN probe`). --summary draws what there is and trains nothing. Seconds per
update are CPU time of the world model alone, all threads together, without the probe that draws for those who can't.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compute import model_seconds
from worldmodel import build
from worldmodel.credible import read_lines
from worldmodel.evaluation.media import enlarge, save_png
from worldmodel.evaluation.plots import COLORS, pyplot, save
from worldmodel.rundir import RunDir, slug
from worldmodel.types import ActionSpace

ROOT = Path(__file__).resolve().parent.parent
WHERE = ("clean", "distracted")
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
    """Train one cell if it is not done, and probe it."""
    run = place(job, name, where, seed)
    if not finished(run):
        call("train.py", *JOBS[job][2], "--env.task", task_of(job, where), "--loss.objective", OBJECTIVES[name],
             "--run.name", label(name, where), "--run.seed", str(seed))  # fmt: skip
    if not (run / "eval" / "probe.json").is_file():
        call("eval.py", str(run), "probe", "--episodes", "9")


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
    """One line for each cell that is there: its evaluations' frames and returns, and the probe's mean R^2."""
    lines = []
    for name in OBJECTIVES:
        for where in WHERE:
            for seed in range(seeds):
                run = place(job, name, where, seed)
                probe = run / "eval" / "probe.json"
                if not finished(run) or not probe.is_file():
                    continue
                known = [x for x in json.loads(probe.read_text())["r2"] if x is not None]
                scores = read_lines(run / "scores.jsonl")
                lines.append({
                    "job": job, "objective": name, "where": where, "seed": seed, "r2": float(np.mean(known)),
                    "return": scores[-1]["eval/score"], "minutes": scores[-1].get("time/minutes"),
                    "frames": [x["frames"] for x in scores], "returns": [x["eval/score"] for x in scores],
                })  # fmt: skip
    return lines


def mean_of(lines: list[dict], name: str, where: str, key: str) -> str:
    """Mean and every seed of one cell, as text."""
    own = [x[key] for x in lines if x["objective"] == name and x["where"] == where]
    digits = 2 if key == "r2" else 0
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
        "| objective | return, clean | distracted | kept | state R^2, clean | distracted | s/update |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in OBJECTIVES:
        cells = [mean_of(lines, name, where, "return") for where in WHERE]
        known = [mean_of(lines, name, where, "r2") for where in WHERE]
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


def draw_seen(job: str, target: Path, steps: int = 10) -> None:
    """What each objective's decoder draws of the same pictures, a row each, the truth above; seed 0, distracted."""
    import envs
    import worldmodel

    rows: list[np.ndarray] = []
    for name in OBJECTIVES:
        run_path = place(job, name, "distracted", 0)
        if not finished(run_path):
            continue
        run = worldmodel.load(run_path)
        env = envs.configured(run.config.env, run.config.distract)(held_out=True)
        truth, drawn = watched(run, env, steps)
        env.close()
        rows += [drawn] if rows else [truth, drawn]
    if rows:
        sheet = np.concatenate(rows)
        save_png(target, enlarge(sheet, 2 * len(sheet)))


def watched(run, env, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Every third picture of an episode of random actions beside one another, and the model's own of them."""
    generator, carry, truth, drawn = np.random.default_rng(0), None, [], []
    obs, _ = env.reset(seed=12345)
    for step in range(3 * steps):
        _, carry = run.act(obs, carry)
        if step % 3 == 2:
            truth.append(obs)
            drawn.append(run.draw(carry))
        action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        carry = {**carry, "prev_action": torch.from_numpy(action)[None]}
        obs, *_ = env.step(action)
    return np.concatenate(truth, 1), np.concatenate(drawn, 1)


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
