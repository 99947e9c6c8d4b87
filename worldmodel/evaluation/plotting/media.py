"""Files of pictures and videos."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from worldmodel.system.files import replace_file

log = logging.getLogger(__name__)

NO_MP4 = (
    f"no MP4 was written: ffmpeg is not installed; install it, or run {sys.executable} -m pip "
    f"install imageio-ffmpeg"
)


def choose_scale(frames: np.ndarray, height: int = 192) -> int:
    """The whole number by which pictures (...,H,W,3) are scaled to about `height`."""
    return max(1, round(height / frames.shape[-3]))


def enlarge(frames: np.ndarray, height: int = 192) -> np.ndarray:
    """Scale pictures (...,H,W,3) by a whole number to about `height`, without smoothing."""
    factor = choose_scale(frames, height)
    return frames.repeat(factor, -3).repeat(factor, -2)


def save_gif(path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0) -> Path:
    frames = np.asarray(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, encode_gif(frames, fps, choose_scale(frames)))
    return path


def encode_gif(frames: np.ndarray, fps: float = 20.0, scale: int = 1) -> bytes:
    """A looping GIF with one palette for the whole video, which keeps it small and steady.

    Colours are chosen before the pictures are enlarged: the same, for a fraction of the pixels.
    """
    sample = frames[np.linspace(0, len(frames) - 1, min(16, len(frames))).round().astype(int)]
    palette = Image.fromarray(np.concatenate(list(sample))).quantize(
        256, method=Image.Quantize.MEDIANCUT
    )
    pictures = [
        ImageOps.scale(
            Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE),
            scale,
            Image.Resampling.NEAREST,
        )
        for f in frames
    ]
    found, more = (
        BytesIO(),
        {"append_images": pictures[1:], "duration": max(20, round(1000 / fps)), "loop": 0},
    )
    pictures[0].save(found, "GIF", save_all=True, **more)
    return found.getvalue()


def save_webp(path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0) -> Path:
    """A looping WebP: all colours in a fraction of the GIF's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(f) for f in enlarge(np.asarray(frames))]
    duration = max(20, round(1000 / fps))
    content = BytesIO()
    pictures[0].save(
        content,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=duration,
        loop=0,
        quality=80,
        method=2,
    )
    replace_file(path, content.getvalue())
    return path


def find_encoder() -> str | None:
    """The path of ffmpeg: the system's or that of imageio-ffmpeg; None without either."""
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
    """Write an MP4; None without an encoder, or with a warning if the encoder fails."""
    program = find_encoder()
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
    with tempfile.TemporaryDirectory(prefix="worldmodel-") as folder:
        made = Path(folder) / path.name
        command = [program, "-y", "-loglevel", "error", *source, *even, str(made)]
        done = subprocess.run(command, input=pictures.tobytes(), capture_output=True)
        if done.returncode:
            why = " ".join(done.stderr.decode(errors="replace").split())[-200:]
            log.warning("%s could not be encoded: %s", path.name, why)
            path.unlink(missing_ok=True)
            return None
        replace_file(path, made.read_bytes())
    return path


def save_video(
    stem: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 20.0
) -> list[Path]:
    """Write the video as GIF, as WebP and, if there is an encoder, as MP4."""
    paths = [
        save_gif(stem.with_suffix(".gif"), frames, fps),
        save_webp(stem.with_suffix(".webp"), frames, fps),
    ]
    mp4 = save_mp4(stem.with_suffix(".mp4"), frames, fps)
    return [*paths, mp4] if mp4 else paths


def save_png(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    replace_file(path, content.getvalue())
    return path
