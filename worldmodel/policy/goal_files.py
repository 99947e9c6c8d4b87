"""Goals from files: a picture, or an observation from a saved run's replay."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from worldmodel.config.schema import GoalConfig
from worldmodel.errors import UsageError
from worldmodel.policy.goals import Goal
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.spaces import ObservationSpace
from worldmodel.system.files import open_input, read_small_file

MAX_BYTES = 1 << 28
# Without formats whose pictures other programs draw, as Ghostscript does those of EPS.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "TIFF")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # of picture files, by number of channels


def load_goal(g: GoalConfig, observation: ObservationSpace) -> Goal:
    """Load the goal of a configuration; UsageError if there is none that fits."""
    if g.image is not None:
        found = read_pictures(g.image, observation)
    else:
        assert g.run is not None, "the configuration is checked before"
        found = read_step(Path(g.run), g.episode, g.step, observation)
    return Goal({k: torch.from_numpy(v)[None, None] for k, v in found.items()}, g.distance, g.at)


def read_pictures(
    image: str | dict[str, str], observation: ObservationSpace
) -> dict[str, np.ndarray]:
    """Read the file of every picture that the run sees, by name."""
    pictures = observation.pictures
    if not pictures:
        raise UsageError(
            "goal.image: this run sees no pictures (env.obs is state); take the goal from goal.run"
        )
    if observation.vectors:
        raise UsageError(
            "goal.image: this run sees a vector as well (env.obs is both); take the goal from "
            "goal.run"
        )
    files = image if isinstance(image, dict) else {next(iter(pictures)): image}
    if files.keys() != pictures.keys():
        wanted = ", ".join(f"{name}: FILE" for name in pictures)
        raise UsageError(
            f"goal.image: this run sees {len(pictures)} pictures; give a file for each of them, "
            f"{{{wanted}}}"
        )
    return {name: read_picture(Path(files[name]), shape) for name, shape in pictures.items()}


def read_picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Read a picture file as pixels (H,W,C) uint8; UsageError unless it has the size that the run
    sees.
    """
    height, width, channels = shape
    try:
        data = read_small_file(path, MAX_BYTES, open_input)
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            if picture.size != (width, height):
                w, h = picture.size
                raise UsageError(
                    f"goal.image: {path} is {h}x{w} pixels, this run sees {height}x{width}; "
                    f"resize it"
                )
            return np.array(picture.convert(MODES[channels])).reshape(shape)
    except FileNotFoundError:
        raise UsageError(f"goal.image: there is no file {path}") from None
    except UnidentifiedImageError:
        raise UsageError(
            f"goal.image: {path} cannot be read as a picture: its format is none of "
            f"{', '.join(FORMATS)}"
        ) from None
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise UsageError(
            f"goal.image: {path} cannot be read as a picture ({' '.join(str(error).split())})"
        ) from None


def read_step(
    run: Path, episode: int, step: int, observation: ObservationSpace
) -> dict[str, np.ndarray]:
    """Read the observation at a step of an episode in a run's replay; negative numbers count from
    the last.
    """
    try:
        rows = SavedEpisodes(run).read_episode(episode)
    except UsageError as error:
        raise UsageError(f"goal.run: {error}") from None
    length = len(rows["is_first"])
    if not -length <= step < length:
        raise UsageError(
            f"goal.step: {step} is not in episode {episode}, which has {length} steps"
        )
    for key, shape in observation.items():
        there = rows[key].shape[1:] if key in rows else None
        if there != shape:
            held = f"{key} of shape {there}" if there else f"no {key}"
            raise UsageError(f"goal.run: {run} has {held}, this run sees {key} of shape {shape}")
    return {key: rows[key][step] for key in observation}
