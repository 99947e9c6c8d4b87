"""Sites and tendons, which rays do not hit, drawn in the image plane as shaded capsules."""

from __future__ import annotations

from typing import Any, NamedTuple

import mujoco
import numpy as np

_SITE = int(mujoco.mjtObj.mjOBJ_SITE)
_TENDON = int(mujoco.mjtObj.mjOBJ_TENDON)
_LONG = (int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER))
_NEAR = 1e-3


class Splats(NamedTuple):
    """The pixels that sites and tendons cover, a row each, with the nearest sprite of each."""

    pixels: np.ndarray  # index into the flat picture
    label: np.ndarray  # site number, or number of sites + tendon number
    rgba: np.ndarray  # (n, 4)
    gloss: np.ndarray  # (n, 3) specular, shininess, emission
    cover: np.ndarray  # share of the pixel in [0, 1]
    centre: np.ndarray  # whether the pixel's centre is covered
    depth: np.ndarray  # along the camera's axis
    normal: np.ndarray  # (n, 3) world axes


class Sprites:
    """Finds the visible sites and tendons of a scene."""

    def __init__(self, model: Any, size: tuple[int, int], camera: int, pixel: float) -> None:
        self._model, self._size, self._camera, self._pixel = model, size, camera, pixel
        self._scene = mujoco.MjvScene(model, model.nsite + 100 * model.ntendon + 100)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = camera

    def find_splats(self, data: Any) -> Splats | None:
        """Project all visible sites and tendons as capsules; a sphere is a capsule of length 0."""
        scene = self._scene
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._view, everything, scene
        )
        geoms = [geom for geom in scene.geoms[: scene.ngeom] if geom.objtype in (_SITE, _TENDON)]
        if not geoms:
            return None
        rotation = data.cam_xmat[self._camera].reshape(3, 3)
        size = np.array([geom.size for geom in geoms], np.float64)
        axis = np.array([geom.mat[:, 2] for geom in geoms])
        long = np.isin([geom.type for geom in geoms], _LONG)
        centre = (np.array([geom.pos for geom in geoms]) - data.cam_xpos[self._camera]) @ rotation
        half = (axis * (size[:, 2] * long)[:, None]) @ rotation
        start, end, radius = centre - half, centre + half, size[:, 0]
        front = (np.maximum(start[:, 2], end[:, 2]) < -_NEAR) & (radius > 0)
        if not front.all():
            geoms = [geom for geom, keep in zip(geoms, front, strict=True) if keep]
            start, end, radius = start[front], end[front], radius[front]
        return self._find_covered_pixels(geoms, start, end, radius, rotation) if geoms else None

    def _find_covered_pixels(
        self,
        geoms: list[Any],
        start: np.ndarray,
        end: np.ndarray,
        radius: np.ndarray,
        rotation: np.ndarray,
    ) -> Splats | None:
        """Return the pixels that capsules, given in camera axes, cover."""
        a, b = self._project(start), self._project(end)
        middle = -(start[:, 2] + end[:, 2]) / 2
        width = radius / (middle * self._pixel)
        columns, rows = self._find_bounds(a, b, width + 1)
        if not len(rows) or not len(columns):
            return None
        grid = np.stack(np.broadcast_arrays(columns, rows[:, None]), -1).reshape(-1, 1, 2)
        away, along = grid - a, b - a
        t = np.clip(
            np.einsum("psi,si->ps", away, along)
            / np.maximum(np.einsum("si,si->s", along, along), 1e-9),
            0,
            1,
        )
        away -= t[..., None] * along
        gap = np.sqrt(np.einsum("psi,psi->ps", away, away)) / width  # in radii
        # Thick sprites have a hard edge like ray-cast solids; those thinner than a pixel fade.
        cover = np.where(width >= 0.5, gap <= 1, np.maximum(1 - gap * width, 0) * 2 * width)
        # Among sprites of similar depth, such as the pieces of one string, the one that covers
        # most counts as nearest.
        nearest = np.where(cover > 0.02, middle - 20 * radius * cover, np.inf).argmin(1)
        every = np.arange(len(grid))
        on = np.flatnonzero(cover[every, nearest] > 0.02)
        best = nearest[on]
        x, y = np.clip(away[on, best] / width[best, None], -1, 1).T
        z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
        sites = self._model.nsite
        labels = np.array([g.objid + (sites if g.objtype == _TENDON else 0) for g in geoms])
        return Splats(
            pixels=grid[on, 0, 1] * self._size[1] + grid[on, 0, 0],
            label=labels[best],
            rgba=np.array([g.rgba for g in geoms])[best],
            gloss=np.array([(g.specular, g.shininess, g.emission) for g in geoms], np.float32)[
                best
            ],
            cover=cover[on, best],
            centre=gap[on, best] <= 1,
            depth=-start[best, 2] - t[on, best] * (end - start)[best, 2] - radius[best] * z,
            normal=(np.stack([x, -y, z], -1) @ rotation.T).astype(np.float32),
        )

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Return (n, 2) column and row, in pixels, of points (n, 3) in camera axes."""
        height, width = self._size
        scaled = points[:, :2] / (points[:, 2:] * -self._pixel)
        return np.stack([scaled[:, 0] + width / 2 - 0.5, height / 2 - 0.5 - scaled[:, 1]], -1)

    def _find_bounds(
        self, a: np.ndarray, b: np.ndarray, margin: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns and rows that the sprites may cover."""
        low = np.floor((np.minimum(a, b) - margin[:, None]).min(0))
        high = np.ceil((np.maximum(a, b) + margin[:, None]).max(0))
        limit = self._size[::-1]
        columns, rows = (
            np.arange(int(max(low[i], 0)), int(min(high[i] + 1, limit[i]))) for i in (0, 1)
        )
        return columns, rows
