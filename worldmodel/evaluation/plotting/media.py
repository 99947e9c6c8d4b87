"""Pictures, videos and the learning curve, all without a display."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.evaluation.plotting.style import COLORS, pyplot, save
from worldmodel.system.files import to_finite

log = logging.getLogger(__name__)

NO_MP4 = (
    f"no MP4 beside them: there is no ffmpeg here; install it, or {sys.executable} -m pip install "
    f"imageio-ffmpeg"
)


def enlarge(frames: np.ndarray, height: int = 192) -> np.ndarray:
    """Whole-number nearest-neighbour scaling of (...,H,W,3) until at least `height`."""
    factor = max(1, round(height / frames.shape[-3]))
    return frames.repeat(factor, -3).repeat(factor, -2)


def save_gif(path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gif(enlarge(np.asarray(frames)), fps))
    return path


def gif(frames: np.ndarray, fps: float = 20.0) -> bytes:
    """A looping GIF; one palette, taken from frames all over the video, keeps it small
    and steady.
    """
    sample = frames[np.linspace(0, len(frames) - 1, min(16, len(frames))).round().astype(int)]
    palette = Image.fromarray(np.concatenate(list(sample))).quantize(
        256, method=Image.Quantize.MEDIANCUT
    )
    pictures = [
        Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames
    ]
    found, more = (
        BytesIO(),
        {"append_images": pictures[1:], "duration": max(20, round(1000 / fps)), "loop": 0},
    )
    pictures[0].save(found, "GIF", save_all=True, **more)
    return found.getvalue()


def save_webp(path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0) -> Path:
    """A looping WebP: all colours, and a fraction of the GIF's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(f) for f in enlarge(np.asarray(frames))]
    duration = max(20, round(1000 / fps))
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=duration,
        loop=0,
        quality=80,
        method=2,
    )
    return path


def encoder() -> str | None:
    """An ffmpeg: the system's, or the one that comes with imageio-ffmpeg; None where there is
    neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def save_mp4(
    path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0
) -> Path | None:
    """None where there is no encoder, or one that fails: then with a warning."""
    program = encoder()
    if program is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = np.ascontiguousarray(enlarge(np.asarray(frames)))
    height, width = pictures.shape[1:3]
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        f"{fps:g}",
        "-i",
        "-",
    ]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    command = [program, "-y", "-loglevel", "error", *source, *even, str(path)]
    done = subprocess.run(command, input=pictures.tobytes(), capture_output=True)
    if done.returncode:
        why = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        log.warning("%s could not be encoded: %s", path.name, why)
        path.unlink(missing_ok=True)
        return None
    return path


def save_clips(
    stem: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0
) -> list[Path]:
    """The same video as GIF, as WebP and, where there is an encoder, as MP4."""
    made = [
        save_gif(stem.with_suffix(".gif"), frames, fps),
        save_webp(stem.with_suffix(".webp"), frames, fps),
    ]
    film = save_mp4(stem.with_suffix(".mp4"), frames, fps)
    return [*made, film] if film else made


def save_png(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def _with(path: Path, *keys: str) -> list[dict[str, float]]:
    """The lines that hold all of these numbers."""
    return [
        line
        for line in read_json_lines(path)
        if all(to_finite(line.get(key)) is not None for key in keys)
    ]


def learning_curve(run_dir: Path, target: Path, title: str, cut: bool) -> Path:
    """Training episodes as dots, evaluations as a line, against environment frames; `cut` where
    patience ends them.
    """
    episodes = _with(run_dir / "metrics.jsonl", "frames", "episode/score")
    scores = _with(
        run_dir / "scores.jsonl", "frames", "eval/score", "eval/score_low", "eval/score_high"
    )
    figure, axes = pyplot().subplots(figsize=(6.4, 4), dpi=110)
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
            "-",
            lw=2,
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
    return save(figure, target)
