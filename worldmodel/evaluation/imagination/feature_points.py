"""The feature points of a spatial encoder, drawn over an episode's pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch

from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.plotting.media import enlarge
from worldmodel.rollout.montage import join_arrays
from worldmodel.system.runtime import autocast

HEIGHT = 192  # pictures are enlarged to about this before points are drawn


@torch.no_grad()
def find_points(observed: ObservedEpisode) -> dict[str, np.ndarray]:
    """The points x, y (T,K,2) of each picture of an episode by name; none for other encoders."""
    agent, columns = observed.model.agent, observed.episode.columns
    names = agent.model.observation
    batch = {k: torch.from_numpy(np.ascontiguousarray(columns[k]))[None] for k in names}
    with autocast(agent.device, agent.precision):
        embed = agent.model.encode({k: v.to(agent.device) for k, v in batch.items()})
    found = agent.model.find_points(embed)
    return {name: points[0].float().cpu().numpy() for name, points in found.items()}


def draw_points(pictures: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Enlarge pictures (T,H,W,C) and mark points (T,K,2), each with a colour of its own:
    (T,h,w,3) uint8.
    """
    large = enlarge(join_arrays({"picture": pictures}), HEIGHT)
    height, width = large.shape[1], large.shape[2] * pictures.shape[2] // _count_columns(pictures)
    rows = np.rint((points[..., 1] + 1) / 2 * height - 0.5).astype(int)
    columns = np.rint((points[..., 0] + 1) / 2 * width - 0.5).astype(int)
    for t in range(len(large)):
        for colour, row, column in zip(
            choose_colours(points.shape[1]), rows[t], columns[t], strict=True
        ):
            for radius, ink in ((4, (0, 0, 0)), (3, colour)):
                low, left = max(row - radius, 0), max(column - radius, 0)
                large[t, low : row + radius + 1, left : min(column + radius + 1, width)] = ink
    return large


def _count_columns(pictures: np.ndarray) -> int:
    """Columns of pixels that pictures have once their further channels stand beside them."""
    return join_arrays({"picture": pictures[:1]}).shape[2]


def choose_colours(count: int) -> Sequence[tuple[int, ...]]:
    """Distinct bright colours."""
    hues = (colorsys.hsv_to_rgb(i / count, 0.9, 1.0) for i in range(count))
    return [tuple(int(255 * c) for c in hue) for hue in hues]
