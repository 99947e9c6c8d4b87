"""Pictures, videos and the learning curve, all without a display."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def enlarge(frames: np.ndarray, height: int = 192) -> np.ndarray:
    """Whole-number nearest-neighbour scaling of (...,H,W,3) until at least `height`."""
    factor = max(1, round(height / frames.shape[-3]))
    return frames.repeat(factor, -3).repeat(factor, -2)


def save_gif(path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0) -> Path:
    """A looping GIF; one palette, taken from frames all over the video, keeps it small and steady."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.asarray(frames)
    sample = frames[np.linspace(0, len(frames) - 1, min(16, len(frames))).round().astype(int)]
    palette = Image.fromarray(np.concatenate(list(sample))).quantize(256, method=Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in enlarge(frames)]
    duration = max(20, round(1000 / fps))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    return path


def save_png(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def read_lines(path: Path) -> list[dict]:
    """A JSON-lines file; a torn last line is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def learning_curve(run_dir: Path, target: Path, title: str) -> Path:
    """Training episodes as dots, evaluations as a line, against environment frames."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    episodes = [x for x in read_lines(run_dir / "metrics.jsonl") if "episode/score" in x]
    scores = [x for x in read_lines(run_dir / "scores.jsonl") if "eval/score" in x]
    figure, axes = pyplot.subplots(figsize=(6.4, 4), dpi=110)
    axes.plot([x["frames"] for x in episodes], [x["episode/score"] for x in episodes], "o", ms=4, alpha=0.55,
              color="#0072B2", label="training episodes (with exploration noise)")  # fmt: skip
    if scores:
        frames = [x["frames"] for x in scores]
        axes.plot(frames, [x["eval/score"] for x in scores], "-", lw=2, color="#D55E00", label="evaluation")
        axes.fill_between(frames, [x["eval/score_low"] for x in scores], [x["eval/score_high"] for x in scores],
                          color="#D55E00", alpha=0.2, lw=0)  # fmt: skip
    axes.set(xlabel="environment frames", ylabel="episode return (higher is better)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(target)
    pyplot.close(figure)
    return target
