"""Where a run's numbers and pictures go beside its own files: TensorBoard, W&B, trackio.

A writer is made as `Writer(run, resumed_at)`. It imports its package when it is made, not before.
It may raise anything: the logger warns once and continues without it. registry.py names the
writers, build.py makes them, and only the logger calls them.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worldmodel.system.files import read_json, replace_file

# Keys of CleanRL beside ours; DreamerV3 calls `episode/score` and `episode/length` as we do.
FIELD_KEYS = {
    "episode/score": "charts/episodic_return",
    "episode/length": "charts/episodic_length",
    "fps/frames": "charts/SPS",
    "eval/score": "eval/episodic_return",
}
STEP_KEY = "global_step"  # CleanRL's name for the frames that all is plotted over
ID_FILE, MAX_ID_BYTES = "logged_as.json", 1000
ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class LoggedRun:
    """What a writer is told of a run; `hparams` is its flat configuration, as {section.key}."""

    path: Path
    project: str
    name: str
    hparams: dict[str, Any]


class LogWriter(Protocol):
    """One place to log to."""

    def add_scalars(self, frames: int, values: Mapping[str, float]) -> None:
        """Add numbers by name."""

    def add_picture(self, frames: int, name: str, picture: np.ndarray) -> None:
        """Add a picture (H,W,3) uint8."""

    def add_video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Add an animated GIF of a size (H,W)."""

    def close(self) -> None:
        """Send what is left."""


def add_field_keys(values: Mapping[str, float]) -> dict[str, float]:
    """The values, and again under the field's keys where those differ."""
    return {**values, **{FIELD_KEYS[k]: v for k, v in values.items() if k in FIELD_KEYS}}


def read_or_make_id(run: Path) -> str:
    """The id under which a run is logged elsewhere; kept in its directory, so that it goes on."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = read_json(run / ID_FILE, MAX_ID_BYTES)["id"]
        if ID.fullmatch(found):
            return found
    made = secrets.token_hex(4)
    replace_file(run / ID_FILE, json.dumps({"id": made}) + "\n")
    return made
