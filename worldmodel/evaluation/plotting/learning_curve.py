"""The learning curve: returns of training episodes and evaluations over environment frames."""

from __future__ import annotations

from pathlib import Path

from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.evaluation.plotting.style import COLORS, load_pyplot, save_figure
from worldmodel.system.files import to_finite


def _read_lines_with(path: Path, *keys: str) -> list[dict[str, float]]:
    """The lines that hold a number under each of these keys."""
    return [
        line
        for line in read_json_lines(path)
        if all(to_finite(line.get(key)) is not None for key in keys)
    ]


def plot_learning_curve(run_dir: Path, target: Path, title: str, cut: bool) -> Path:
    """Plot training episodes as dots and evaluations as a line over environment frames.

    `cut` says that env.patience may end training episodes early.
    """
    episodes = _read_lines_with(run_dir / "metrics.jsonl", "frames", "episode/score")
    scores = _read_lines_with(
        run_dir / "scores.jsonl", "frames", "eval/score", "eval/score_low", "eval/score_high"
    )
    figure, axes = load_pyplot().subplots(figsize=(6.4, 4), dpi=110)
    axes.plot(
        [x["frames"] for x in episodes],
        [x["episode/score"] for x in episodes],
        "o",
        ms=4,
        alpha=0.55,
        color=COLORS[0],
        label="training episodes (some cut short)" if cut else "training episodes",
    )
    if scores:
        frames = [x["frames"] for x in scores]
        axes.plot(
            frames,
            [x["eval/score"] for x in scores],
            "o-",
            lw=2,
            ms=4,
            color=COLORS[1],
            label="evaluation",
        )
        axes.fill_between(
            frames,
            [x["eval/score_low"] for x in scores],
            [x["eval/score_high"] for x in scores],
            color=COLORS[1],
            alpha=0.2,
            lw=0,
        )
    axes.set(xlabel="environment frames", ylabel="episode return (higher is better)", title=title)
    axes.legend(loc="best", fontsize=8)
    return save_figure(figure, target)
