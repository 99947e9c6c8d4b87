"""Joins several pictures of one step side by side, to be shown to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.spaces import find_pictures


def join_pictures(pictures: Mapping[str, Tensor]) -> Tensor:
    """Pictures (...,H,W,C) by name to one (...,H,W,3), in the order of their names.

    All get the height of the tallest. A fourth channel, or one of two, is a grey picture of its
    own.
    """
    tiles = [tile for name in sorted(pictures) for tile in _split_channels(pictures[name])]
    height = max(tile.shape[-3] for tile in tiles)
    return torch.cat([_scale(tile, height) for tile in tiles], -2) if len(tiles) > 1 else tiles[0]


def join_arrays(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """`join_pictures` for arrays."""
    return join_pictures({k: torch.from_numpy(v) for k, v in pictures.items()}).numpy()


def join_row(row: Mapping[str, Any]) -> np.ndarray | None:
    """All pictures of a row or of rows (T,...) as one; None where there are none."""
    pictures = find_pictures(row)
    return join_arrays(pictures) if pictures else None


def place_pictures(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[float, float]]:
    """Where `join_pictures` puts pictures of shapes (H,W,C): the left edge and the width of the
    first tile of each, as shares of the whole width.
    """
    height, left = max(shape[0] for shape in shapes.values()), 0
    found = {}
    for name in sorted(shapes):
        rows, columns, channels = shapes[name]
        width = _scale_width(rows, columns, height)
        found[name] = (left, width)
        left += width * (channels - 2 if channels >= 3 else channels)
    return {name: (edge / left, width / left) for name, (edge, width) in found.items()}


def _split_channels(picture: Tensor) -> list[Tensor]:
    """The first three channels as they are, and each of the others in grey: (...,H,W,3) each."""
    count = picture.shape[-1]
    colours = 3 if count >= 3 else 0
    grey = [picture[..., i : i + 1].expand(*picture.shape[:-1], 3) for i in range(colours, count)]
    return [picture[..., :3], *grey] if colours else grey


def _scale(picture: Tensor, height: int) -> Tensor:
    """Scale (...,h,w,3) to another height by nearest pixels, its proportions kept."""
    old_height, old_width = picture.shape[-3:-1]
    if old_height == height:
        return picture
    width = _scale_width(old_height, old_width, height)
    rows, columns = (
        torch.arange(new, device=picture.device) * old // new
        for new, old in ((height, old_height), (width, old_width))
    )
    return picture.index_select(-3, rows).index_select(-2, columns)


def _scale_width(old_height: int, old_width: int, height: int) -> int:
    """The width of a picture that is scaled to another height."""
    return max(1, round(old_width * height / old_height))
