"""What a plan is to reach: a picture out of a file, or an observation out of a saved
run's replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from worldmodel.config.schema import GoalConfig
from worldmodel.errors import UsageError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.spaces import Batch, ObservationSpace


@dataclass(frozen=True)
class Goal:
    """Observations (B,1,...) to reach, one for every environment or one for all, and how distance
    is measured.
    """

    seen: Batch
    distance: str
    at: str


def load_goal(g: GoalConfig, observation: ObservationSpace) -> Goal:
    """The goal that a configuration names; UsageError in one line where there is none
    that fits.
    """
    if g.image is not None:
        found = {"image": read_picture(Path(g.image), observation)}
    else:
        assert g.run is not None, "the configuration is checked before"
        found = read_step(Path(g.run), g.episode, g.step, observation)
    return Goal({k: torch.from_numpy(v)[None, None] for k, v in found.items()}, g.distance, g.at)


def read_picture(path: Path, observation: ObservationSpace) -> np.ndarray:
    """A picture file as pixels (H,W,3) uint8 of just the size that the run sees."""
    if observation.image is None:
        raise UsageError(
            "goal.image: this run sees no pictures (env.obs is state); take the goal from goal.run"
        )
    if observation.vector is not None:
        raise UsageError(
            "goal.image: this run sees a vector as well (env.obs is both); take the goal from "
            "goal.run"
        )
    height, width, _ = observation.image
    try:
        with Image.open(path) as picture:
            if picture.size != (width, height):
                w, h = picture.size
                raise UsageError(
                    f"goal.image: {path} is {h}x{w} pixels, this run sees {height}x{width}; "
                    f"resize it"
                )
            return np.array(picture.convert("RGB"))
    except FileNotFoundError:
        raise UsageError(f"goal.image: there is no file {path}") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise UsageError(
            f"goal.image: {path} cannot be read as a picture ({' '.join(str(error).split())})"
        ) from None


def read_step(
    run: Path, episode: int, step: int, observation: ObservationSpace
) -> dict[str, np.ndarray]:
    """What was observed at a step of an episode in a run's replay; negative numbers count from the
    last.
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
    wanted = {"image": observation.image, "vector": observation.vector and (observation.vector,)}
    for key, shape in wanted.items():
        there = rows[key].shape[1:] if key in rows else None
        if shape and there != shape:
            held = f"{key} of shape {there}" if there else f"no {key}"
            raise UsageError(f"goal.run: {run} has {held}, this run sees {key} of shape {shape}")
    return {key: rows[key][step] for key, shape in wanted.items() if shape}
