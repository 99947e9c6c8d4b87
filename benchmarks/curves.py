"""Collect the scores of several runs and seeds into one small JSONL file and one PNG.

curves.py TARGET SOURCE [SOURCE ...] [LABEL=LEVEL ...] [--training] [--every FRAMES]

A source is a run directory, RUN@NAME to rename it, or the scores.jsonl of an earlier target. With
--training the episodes collected for training are drawn as well, exploration noise included. Seeds
are averaged where they have the same frames, after rounding to multiples of --every.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.config import loading
from worldmodel.evaluation.plotting.style import COLORS, load_pyplot, save_figure


def collect_scores(sources: list[str], training: bool = False) -> list[dict]:
    """Collect one line per evaluation of each seed, with the wall-clock time if it was logged.

    With `training`, also one line per frame count at which training episodes ended.
    """
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
        if training:
            lines += [{**named, **x} for x in average_training_episodes(Path(path))]
    return lines


def average_training_episodes(run: Path) -> list[dict]:
    """Average the returns of the training episodes that ended at the same frame count."""
    returns: dict[int, list[float]] = {}
    for line in read_json_lines(run / "metrics.jsonl"):
        if "episode/score" in line:
            returns.setdefault(line["frames"], []).append(line["episode/score"])
    return [
        {
            "frames": frames,
            "training/score": float(np.mean(scores)),
            "training/episodes": len(scores),
        }
        for frames, scores in returns.items()
    ]


def draw_curves(lines: list[dict], target: Path, levels: dict[str, float]) -> None:
    """Draw each run in a colour: seeds thin, their mean thick; reference levels are dashed."""
    figure, axes = load_pyplot().subplots(figsize=(6.4, 4), dpi=110)
    for name, color in zip(dict.fromkeys(x["name"] for x in lines), COLORS, strict=False):
        own = [x for x in lines if x["name"] == name]
        for kind, marker, suffix in (
            ("training", "--x", ", training episodes"),
            ("eval", "-o", ""),
        ):
            scores = [{**x, "score": x[f"{kind}/score"]} for x in own if f"{kind}/score" in x]
            if scores:
                draw_seeds(axes, scores, name + suffix, color, marker)
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
        ylabel="return (higher is better)",
        title=lines[0]["task"],
    )
    if len(axes.get_legend_handles_labels()[1]) > 6:  # beside the curves, which it would hide
        figure.set_size_inches(10, 4)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        axes.legend(fontsize=8)
    save_figure(figure, target)


def draw_seeds(axes, lines: list[dict], name: str, color: str, marker: str) -> None:
    seeds = sorted({x["seed"] for x in lines})
    for seed in seeds:
        own = [x for x in lines if x["seed"] == seed]
        axes.plot(
            [x["frames"] for x in own],
            [x["score"] for x in own],
            marker,
            ms=3,
            lw=1,
            alpha=0.4,
            color=color,
        )
    frames = sorted({x["frames"] for x in lines})
    shared = [
        f for f in frames if len({x["seed"] for x in lines if x["frames"] == f}) == len(seeds)
    ]
    means = [np.mean([x["score"] for x in lines if x["frames"] == f]) for f in shared]
    kind = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    axes.plot(shared, means, marker, lw=2.5, color=color, label=f"{name}, {kind}")


def round_frames(lines: list[dict], every: int) -> list[dict]:
    """The lines with frames rounded to multiples; of lines that then coincide, their mean."""
    groups: dict[tuple, list[dict]] = {}
    for x in lines:
        kind = "eval" if "eval/score" in x else "training"
        place = x["name"], x["seed"], round(x["frames"] / every) * every, kind
        groups.setdefault(place, []).append(x)
    return [
        {
            **own[-1],
            "frames": place[2],
            f"{place[3]}/score": float(np.mean([x[f"{place[3]}/score"] for x in own])),
        }
        for place, own in groups.items()
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("sources", nargs="+", metavar="SOURCE or LABEL=LEVEL")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args(argv)
    levels = {k: float(v) for k, v in (a.split("=") for a in args.sources if "=" in a)}
    lines = collect_scores([a for a in args.sources if "=" not in a], args.training)
    args.target.mkdir(parents=True, exist_ok=True)
    (args.target / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    draw_curves(round_frames(lines, args.every), args.target / "curve.png", levels)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
