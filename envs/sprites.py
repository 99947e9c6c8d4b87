"""Sites and tendons, which rays do not meet: drawn in the image plane as shaded spheres and capsules."""

from __future__ import annotations

from typing import Any, NamedTuple

import mujoco
import numpy as np

_SITE = int(mujoco.mjtObj.mjOBJ_SITE)
_TENDON = int(mujoco.mjtObj.mjOBJ_TENDON)
_LONG = (int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER))
_NEAR = 1e-3


class Sprite(NamedTuple):
    """What one site or tendon covers: a row per pixel."""

    label: int  # site number, or number of sites + tendon number
    rgba: np.ndarray  # (4,)
    pixels: np.ndarray  # (n,) index into the flat picture
    cover: np.ndarray  # (n,) share of the pixel in [0, 1]
    depth: np.ndarray  # (n,) along the camera's axis
    normal: np.ndarray  # (n, 3) world axes
    gloss: np.ndarray  # (3,)


class Sprites:
    """Lists the visible sites and tendons of a scene as sprites."""

    def __init__(self, model: Any, size: tuple[int, int], camera: int, pixel: float) -> None:
        self._model, self._size, self._camera, self._pixel = model, size, camera, pixel
        self._scene = mujoco.MjvScene(model, model.nsite + 100 * model.ntendon + 100)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = camera

    def visible(self, data: Any) -> list[Sprite]:
        """Return what is in view, each sprite's own overlaps resolved."""
        scene = self._scene
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._view, everything, scene)
        pieces: dict[int, list[Any]] = {}
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype == _SITE:
                pieces.setdefault(geom.objid, []).append(geom)
            elif geom.objtype == _TENDON:
                pieces.setdefault(self._model.nsite + geom.objid, []).append(geom)
        sprites = (self._draw(data, label, geoms) for label, geoms in pieces.items())
        return [sprite for sprite in sprites if sprite is not None]

    def _draw(self, data: Any, label: int, geoms: list[Any]) -> Sprite | None:
        """Project capsules that share a label; a sphere is a capsule of no length."""
        rotation = data.cam_xmat[self._camera].reshape(3, 3)
        centre = np.array([g.pos for g in geoms]) - data.cam_xpos[self._camera]
        half = np.array([g.mat[:, 2] * (g.size[2] if g.type in _LONG else 0.0) for g in geoms])
        radius = np.array([g.size[0] for g in geoms])
        start, end = (centre - half) @ rotation, (centre + half) @ rotation
        depths = -np.stack([start[:, 2], end[:, 2]], 1)
        front = depths.min(1) > _NEAR
        if not front.any():
            return None
        start, end, depths, radius = start[front], end[front], depths[front], radius[front]
        a, b = self._project(start, depths[:, 0]), self._project(end, depths[:, 1])
        width = np.maximum(radius / depths.mean(1) / self._pixel, 1e-3)
        columns, rows = self._box(np.concatenate([a, b]), width.max() + 1)
        if not len(rows) or not len(columns):
            return None
        grid = np.stack(np.broadcast_arrays(columns, rows[:, None]), -1).reshape(-1, 1, 2)
        along = b - a
        t = ((grid - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
        t = np.clip(t, 0, 1)
        away = (grid - a - t[..., None] * along) / width[:, None]
        distance = np.sqrt((away**2).sum(-1))  # in radii
        # Thick sprites have the rays' hard edge, and what is thinner than a pixel fades.
        cover = np.where(width >= 0.5, distance <= 1, np.maximum(1 - np.abs(distance * width), 0) * 2 * width)
        best = cover.argmax(1)
        pick = np.arange(len(best)), best
        on = np.flatnonzero(cover[pick] > 0.02)
        pick = on, best[on]
        x, y = np.clip(away[pick], -1, 1).T
        z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
        depth = depths[pick[1], 0] + t[pick] * (depths[pick[1], 1] - depths[pick[1], 0]) - radius[pick[1]] * z
        normal = (np.stack([x, -y, z], -1) @ rotation.T).astype(np.float32)
        flat = (grid[on, 0, 1] * self._size[1] + grid[on, 0, 0]).astype(np.int64)
        gloss = np.array([geoms[0].specular, geoms[0].shininess, geoms[0].emission], np.float32)
        return Sprite(label, np.array(geoms[0].rgba), flat, cover[pick], depth, normal, gloss)

    def _project(self, points: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """Return (n, 2) column and row, in pixels, of points in camera axes."""
        height, width = self._size
        scaled = points[:, :2] / (depths * self._pixel)[:, None]
        return np.stack([scaled[:, 0] + width / 2 - 0.5, height / 2 - 0.5 - scaled[:, 1]], -1)

    def _box(self, points: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns and the rows that could be covered."""
        low = np.floor(points.min(0) - margin)
        high = np.ceil(points.max(0) + margin)
        columns = np.arange(max(low[0], 0), min(high[0] + 1, self._size[1]))
        return columns, np.arange(max(low[1], 0), min(high[1] + 1, self._size[0]))
