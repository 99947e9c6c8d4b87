"""Collect the scores of several runs and seeds into one small JSONL file and one PNG.

curves.py TARGET SOURCE [SOURCE ...] [LABEL=LEVEL ...]

A source is a run directory, RUN@NAME to rename it, or the scores.jsonl of an earlier target.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.config import loading
from worldmodel.evaluation.plotting.style import COLORS, load_pyplot, save_figure


def collect_scores(sources: list[str]) -> list[dict]:
    """Collect one line per evaluation of each seed, with the wall-clock time if it was logged."""
    lines = []
    for source in sources:
        path, _, name = source.partition("@")
        if path.endswith(".jsonl"):
            lines += read_json_lines(Path(path))
            continue
        c = loading.read_yaml(Path(path) / "config.yaml")
        named = {
            "task": c["env"]["task"],
            "name": name or c["run"]["name"],
            "seed": c["run"]["seed"],
        }
        lines += [{**named, **x} for x in read_json_lines(Path(path) / "scores.jsonl")]
    return lines


def draw_curves(lines: list[dict], target: Path, levels: dict[str, float]) -> None:
    """Draw each run in a colour: seeds thin, their mean thick; reference levels are dashed."""
    figure, axes = load_pyplot().subplots(figsize=(6.4, 4), dpi=110)
    for name, color in zip(dict.fromkeys(x["name"] for x in lines), COLORS, strict=False):
        draw_seeds(axes, [x for x in lines if x["name"] == name], name, color)
    for name, level in levels.items():
        axes.axhline(level, ls="--", lw=1, color="#555555")
        axes.annotate(
            name,
            (0.01, level),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="bottom",
            color="#555555",
        )
    axes.set(
        xlabel="environment frames",
        ylabel="evaluation return (higher is better)",
        title=lines[0]["task"],
    )
    axes.legend(fontsize=8)
    save_figure(figure, target)


def draw_seeds(axes, lines: list[dict], name: str, color: str) -> None:
    seeds = sorted({x["seed"] for x in lines})
    for seed in seeds:
        own = [x for x in lines if x["seed"] == seed]
        axes.plot(
            [x["frames"] for x in own],
            [x["eval/score"] for x in own],
            "-o",
            ms=3,
            lw=1,
            alpha=0.4,
            color=color,
        )
    frames = sorted({x["frames"] for x in lines})
    shared = [
        f for f in frames if len({x["seed"] for x in lines if x["frames"] == f}) == len(seeds)
    ]
    means = [np.mean([x["eval/score"] for x in lines if x["frames"] == f]) for f in shared]
    kind = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    axes.plot(shared, means, lw=2.5, color=color, label=f"{name}, {kind}")


def main(argv: list[str]) -> int:
    levels = {k: float(v) for k, v in (a.split("=") for a in argv if "=" in a)}
    target, *sources = (a for a in argv if "=" not in a)
    lines, folder = collect_scores(sources), Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    draw_curves(lines, folder / "curve.png", levels)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
