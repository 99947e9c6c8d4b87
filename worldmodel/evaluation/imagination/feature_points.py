"""The feature points of a spatial encoder, drawn over pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np

from worldmodel.evaluation.plotting.media import enlarge
from worldmodel.rollout.montage import join_arrays, place_pictures

HEIGHT = 192  # pictures are enlarged to about this before points are drawn


def join_points(
    points: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Points x, y (...,K,2) in pictures of shapes (H,W,C) by name, as places in the picture that
    joins these: shares (...,N,2) of its width and height.
    """
    tiles, found = place_pictures(shapes), []
    for name in sorted(points):
        left, width = tiles[name]
        found.append((points[name] + 1) / 2 * (width, 1) + (left, 0))
    return np.concatenate(found, -2)


def draw_points(pictures: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Enlarge pictures (T,H,W,C) and mark points (T,K,2), each with a colour of its own:
    (T,h,w,3) uint8.
    """
    large = enlarge(join_arrays({"picture": pictures}), HEIGHT)
    shapes = {"picture": pictures.shape[1:]}
    width = round(large.shape[2] * place_pictures(shapes)["picture"][1])
    places = join_points({"picture": points}, shapes) * (large.shape[2], large.shape[1])
    columns, rows = np.moveaxis(np.rint(places - 0.5).astype(int), -1, 0)
    for t in range(len(large)):
        for colour, row, column in zip(
            choose_colours(points.shape[1]), rows[t], columns[t], strict=True
        ):
            for radius, ink in ((4, (0, 0, 0)), (3, colour)):
                low, left = max(row - radius, 0), max(column - radius, 0)
                large[t, low : row + radius + 1, left : min(column + radius + 1, width)] = ink
    return large


def choose_colours(count: int) -> Sequence[tuple[int, ...]]:
    """Distinct bright colours."""
    hues = (colorsys.hsv_to_rgb(i / count, 0.9, 1.0) for i in range(count))
    return [tuple(int(255 * c) for c in hue) for hue in hues]
