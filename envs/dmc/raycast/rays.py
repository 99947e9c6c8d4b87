"""The geom that each pixel's ray hits.

Planes are intersected with all rays at once; MuJoCo casts rays only where a solid may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np

VISIBLE = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # geom groups that the standard picture shows
FAR = 1e10
_HIDDEN_GROUP = 5
_CORNERS = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(8, 3)
_MARGIN = 1e-6  # of a pixel, added on all sides of a box
_FRONT = 1e-9  # smallest cosine between a ray and a plane's normal that counts as a hit


class Rays:
    """One ray per pixel of a camera that sees a model; arrays have a row per pixel."""

    def __init__(self, model: Any, size: tuple[int, int], camera: int) -> None:
        self._model, self._size, self._camera = model, size, camera
        height, width = size
        self.pixel = float(2 * np.tan(np.deg2rad(model.cam_fovy[camera]) / 2) / height)
        x = (np.arange(width) + 0.5 - width / 2) * self.pixel
        y = (height / 2 - np.arange(height) - 0.5) * self.pixel
        rays = np.stack(np.broadcast_arrays(x, y[:, None], -1.0), -1).reshape(-1, 3)
        self._rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        self.cosine = -self._rays[:, 2]
        self.geom = np.full(len(rays), -1, np.int32)  # the geom hit, or -1
        self.dist = np.full(len(rays), FAR)
        self.normal = np.zeros((len(rays), 3))
        self._rotation: np.ndarray | None = None
        plane = np.asarray(model.geom_type) == int(mujoco.mjtGeom.mjGEOM_PLANE)
        self._planes, self.solids = np.flatnonzero(plane), np.flatnonzero(~plane)
        self._corners = (
            model.geom_aabb[self.solids, None, :3]
            + _CORNERS * model.geom_aabb[self.solids, None, 3:]
        )
        self._boxes = _bounding_boxes(model)

    def aim(self, data: Any) -> bool:
        """Rotate the rays with the camera; return whether it has turned, which most never do."""
        rotation = data.cam_xmat[self._camera].reshape(3, 3)
        if self._rotation is not None and np.array_equal(rotation, self._rotation):
            return False
        self._rotation = rotation.copy()
        self._facing: dict[
            int, tuple[np.ndarray, ...]
        ] = {}  # of a plane: its pose, and how rays run in its axes
        self.directions = self._rays @ rotation.T
        self.directions32 = self.directions.astype(np.float32)
        return True

    @contextmanager
    def hide_geoms(self, hidden: np.ndarray) -> Iterator[None]:
        """Within the context, rays skip `hidden` geoms and use our boxes; then undo both."""
        groups, boxes = self._model.geom_group, self._model.bvh_aabb[: len(self._boxes)]
        kept_groups, kept_boxes = groups.copy(), boxes.copy()
        try:
            groups[hidden] = _HIDDEN_GROUP
            boxes[:] = self._boxes
            yield
        finally:
            groups[:] = kept_groups
            boxes[:] = kept_boxes

    def cast(self, data: Any) -> None:
        """Find what every ray hits first: `geom`, `dist` and `normal`.

        Call it inside `hide_geoms`. Rays cast afterwards, for shadows, do not hit planes.
        """
        groups, origin = self._model.geom_group, data.cam_xpos[self._camera]
        self.geom.fill(-1)
        self.dist.fill(FAR)
        for plane in self._planes[self._find_visible(self._planes)].tolist():
            self._intersect_plane(data, origin, plane)
        groups[self._planes] = _HIDDEN_GROUP
        near = np.flatnonzero(self._find_covered_pixels(data, origin))
        if not len(near):
            return
        geom, dist, normal = (
            np.empty(len(near), np.int32),
            np.empty(len(near)),
            np.empty((len(near), 3)),
        )
        towards = self.directions.take(near, 0)
        cast_rays(self._model, data, origin, towards, True, geom, dist, normal)
        first = np.flatnonzero((geom >= 0) & (dist < self.dist.take(near)))
        pixels = near.take(first)
        self.geom[pixels], self.dist[pixels] = geom.take(first), dist.take(first)
        self.normal[pixels] = normal.take(first, 0)

    def _find_visible(self, geoms: np.ndarray) -> np.ndarray:
        """Return a mask of the geoms whose group is drawn."""
        return VISIBLE.take(self._model.geom_group[geoms], mode="clip") > 0

    def _intersect_plane(self, data: Any, origin: np.ndarray, plane: int) -> None:
        """Intersect the rays with a plane's front, where it is nearer than earlier hits."""
        pose, (x, y) = data.geom_xmat[plane].reshape(3, 3), self._model.geom_size[plane, :2]
        cached = self._facing.get(plane)
        if cached is None or not np.array_equal(cached[0], pose):
            across, down, along = (self.directions @ axis for axis in pose.T)
            # 0: its front is not seen
            inverse = np.where(along < -_FRONT, -1 / np.minimum(along, -_FRONT), 0)
            cached = self._facing[plane] = (pose.copy(), across, down, inverse)
        _, across, down, inverse = cached
        start = (origin - data.geom_xpos[plane]) @ pose
        dist = start[2] * inverse
        met = (dist > 0) & (dist < self.dist)
        if x > 0:
            met &= np.abs(start[0] + dist * across) <= x
        if y > 0:
            met &= np.abs(start[1] + dist * down) <= y
        np.copyto(self.dist, dist, where=met)
        self.geom[met] = plane
        self.normal[met] = pose[:, 2]

    def _find_covered_pixels(self, data: Any, origin: np.ndarray) -> np.ndarray:
        """Return a mask of the pixels that the bounding rectangle of some solid's box covers."""
        height, width = self._size
        covered = np.zeros(self._size, bool)
        shown = self._find_visible(self.solids)
        poses = data.geom_xmat[self.solids].reshape(-1, 3, 3).transpose(0, 2, 1)
        corners = (
            self._corners @ poses + (data.geom_xpos[self.solids] - origin)[:, None]
        ) @ self._rotation
        depth = -corners[..., 2]
        front = depth.min(1, initial=FAR) > 1e-6
        depth[~front] = 1.0
        x = corners[..., 0] / (depth * self.pixel) + width / 2
        y = height / 2 - corners[..., 1] / (depth * self.pixel)
        # A pixel's ray goes through its centre, half a pixel from its edges.
        low = np.ceil(np.stack([y.min(1), x.min(1)], 1) - 0.5 - _MARGIN)
        high = np.floor(np.stack([y.max(1), x.max(1)], 1) - 0.5 + _MARGIN) + 1
        low[~front], high[~front] = 0, (height, width)
        low, high = (np.clip(each, 0, (height, width)).astype(int) for each in (low, high))
        for (top, left), (bottom, right) in zip(
            low[shown].tolist(), high[shown].tolist(), strict=True
        ):
            covered[top:bottom, left:right] = True
        return covered.ravel()


def cast_rays(
    model: Any,
    data: Any,
    origin: np.ndarray,
    towards: np.ndarray,
    fixed: bool,
    geom: np.ndarray,
    dist: np.ndarray,
    normal: np.ndarray | None = None,
) -> None:
    """Cast rays (n, 3) from one point into arrays of n rows.

    `fixed` says whether rays hit geoms that are fixed to the world.
    """
    flat, into = towards.reshape(-1), None if normal is None else normal.reshape(-1)
    mujoco.mj_multiRay(
        model, data, origin, flat, VISIBLE, fixed, -1, geom, dist, into, len(towards), FAR
    )


def _bounding_boxes(model: Any) -> np.ndarray:
    """Return bounding boxes that surely contain each body's geoms, a row per node of its tree.

    mj_multiRay misses geoms that reach beyond the model's own boxes: those of bodies with
    visual-only geoms, and those of the world if a task moves them.
    """
    boxes = np.array(model.bvh_aabb[: int((model.body_bvhadr + model.body_bvhnum).max(initial=0))])
    reach = np.linalg.norm(model.geom_pos, axis=1) + model.geom_rbound
    for body in np.flatnonzero(model.body_bvhnum):
        start, first = model.body_bvhadr[body], model.body_geomadr[body]
        geoms = slice(first, first + model.body_geomnum[body])
        boundless = body == 0 or (model.geom_rbound[geoms] == 0).any()
        size = (
            FAR
            if boundless
            else reach[geoms].max(initial=0) + np.linalg.norm(model.body_ipos[body])
        )
        boxes[start : start + model.body_bvhnum[body]] = (0, 0, 0, size, size, size)
    return boxes
