"""Many pictures in one: tiles with a line of text above each, as a still or over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.evaluation.plotting.media import enlarge

BAND, GAP = 16, 4
INK, PAPER = (20, 20, 20), (255, 255, 255)
TILE = 96  # least height of a tile


def text_band(text: str, width: int) -> np.ndarray:
    """A line of text (BAND,width,3), cut off where it does not fit."""
    picture = Image.new("RGB", (width, BAND), PAPER)
    ImageDraw.Draw(picture).text((2, 2), text, INK, ImageFont.load_default(11))
    return np.asarray(picture)


def padded(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T,h,w,3) on paper of that size."""
    room = [(0, 0), (0, height - pictures.shape[1]), (0, width - pictures.shape[2]), (0, 0)]
    return np.pad(pictures, room, constant_values=255)


def tiles(videos: Sequence[tuple[str, np.ndarray]], columns: int, tile: int = TILE) -> np.ndarray:
    """Videos (T,H,W,3), each below its text, side by side: (T,...,3). Shorter ones stay at their
    last picture.
    """
    longest = max(len(v) for _, v in videos)
    cells = []
    for text, video in videos:
        large = enlarge(video, tile)
        held = np.concatenate([large, np.repeat(large[-1:], longest - len(large), 0)])
        band = np.broadcast_to(text_band(text, held.shape[2]), (longest, BAND, held.shape[2], 3))
        cells.append(
            padded(
                np.concatenate([band, held], 1), BAND + held.shape[1] + GAP, held.shape[2] + GAP
            )
        )
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    return np.concatenate(rows, 1)


def strips(videos: Sequence[tuple[str, np.ndarray]], columns: int, tile: int = TILE) -> np.ndarray:
    """A row of `columns` pictures for each video, evenly over its time, below its text: one
    picture.
    """
    rows = []
    for text, video in videos:
        picks = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)
        large = np.pad(
            enlarge(video[picks], tile),
            [(0, 0), (0, 0), (0, GAP // 2), (0, 0)],
            constant_values=255,
        )
        rows.append((text, np.concatenate(list(large), 1)[None]))
    width = max(row.shape[2] for _, row in rows)
    found = []
    for text, row in rows:
        band = np.concatenate([text_band(text, width)[None], padded(row, row.shape[1], width)], 1)
        found.append(padded(band, band.shape[1] + GAP, width))
    return np.concatenate(found, 1)[0]
