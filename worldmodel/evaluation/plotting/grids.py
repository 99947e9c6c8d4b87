"""Many pictures or videos in one grid, each below a line of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.evaluation.plotting.media import enlarge

BAND_HEIGHT, GAP = 16, 4
INK, PAPER = (20, 20, 20), (255, 255, 255)
MIN_TILE = 96  # minimum height of a tile


def draw_text_band(text: str, width: int) -> np.ndarray:
    """A line of text as a picture (BAND_HEIGHT,width,3), cut off at the width."""
    picture = Image.new("RGB", (width, BAND_HEIGHT), PAPER)
    ImageDraw.Draw(picture).text((2, 2), text, INK, ImageFont.load_default(11))
    return np.asarray(picture)


def pad_pictures(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pictures (T,h,w,3) padded with white to (T,height,width,3)."""
    room = [(0, 0), (0, height - pictures.shape[1]), (0, width - pictures.shape[2]), (0, 0)]
    return np.pad(pictures, room, constant_values=255)


def tile_videos(
    videos: Sequence[tuple[str, np.ndarray]], columns: int, tile: int = MIN_TILE
) -> np.ndarray:
    """Videos (T,H,W,3), each below its text, in a grid: one video (T,...,3).

    Shorter videos repeat their last picture.
    """
    longest = max(len(v) for _, v in videos)
    cells = []
    for text, video in videos:
        large = enlarge(video, tile)
        held = np.concatenate([large, np.repeat(large[-1:], longest - len(large), 0)])
        band = np.broadcast_to(
            draw_text_band(text, held.shape[2]), (longest, BAND_HEIGHT, held.shape[2], 3)
        )
        cells.append(
            pad_pictures(
                np.concatenate([band, held], 1),
                BAND_HEIGHT + held.shape[1] + GAP,
                held.shape[2] + GAP,
            )
        )
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    return np.concatenate(rows, 1)


def stack_strips(
    videos: Sequence[tuple[str, np.ndarray]], columns: int, tile: int = MIN_TILE
) -> np.ndarray:
    """One picture with a row per video: its text and `columns` pictures at equal intervals."""
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
        band = np.concatenate(
            [draw_text_band(text, width)[None], pad_pictures(row, row.shape[1], width)], 1
        )
        found.append(pad_pictures(band, band.shape[1] + GAP, width))
    return np.concatenate(found, 1)[0]
