"""The renderer of MuJoCo scenes by ray casting, with textures and lights, in numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import mujoco
import numpy as np

from ..segmentation import find_solid_labels
from .lights import Lights, Points, ShadowTest
from .planes import Floor, View
from .rays import Rays, cast_rays
from .shading import Materials, Sky
from .sprites import Sprites

_DIRECTIONAL = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


class RayRenderer:
    """Draw what a camera sees by casting one ray per pixel."""

    name = "ray"

    def __init__(
        self, size: tuple[int, int] = (64, 64), camera: int = 0, shadows: bool = True
    ) -> None:
        self.size = size
        self.camera = camera
        self.shadows = shadows
        count = size[0] * size[1]
        self._shadow_geom = np.empty(count, np.int32)
        self._shadow_dist = np.empty(count, np.float64)
        # Share of each pixel of the front layer that is neither sky nor ground.
        self._shares = np.zeros(count, np.float32)
        self._mask: np.ndarray = np.zeros(size, np.float32)
        self._model: Any = None

    def _bind(self, model: Any) -> None:
        """Read everything of a model that does not change."""
        self._model = model
        self._rays = rays = Rays(model, self.size, self.camera)
        # The far clipping plane.
        self._reach = model.vis.map.zfar * model.stat.extent / rays.cosine
        self._sprites = Sprites(model, self.size, self.camera, rays.pixel)
        self._sky = Sky(model)
        self._materials = Materials(model)
        self._lights = Lights(model)
        textures, gloss = self._materials.textures, self._materials.gloss
        fixed = np.asarray(model.body_weldid)[model.geom_bodyid] == 0
        static = _is_static(model, self.camera)
        self._floors = {
            geom: Floor(
                model,
                geom,
                pyramid,
                rays.pixel,
                self._lights,
                gloss[geom],
                static and bool(fixed[geom]),
            )
            for geom, pyramid in textures.items()
        }
        self._is_floor = np.isin(np.arange(model.ngeom), list(self._floors))
        self._solid = find_solid_labels(model).astype(np.float32)
        # Only moving geoms cast shadows, unless the world itself holds solids.
        self._fixed_shadows = bool(fixed[rays.solids].any())
        self._shadow_slack = 2e-3 * model.stat.extent

    def _prepare(self, physics: Any) -> Any:
        """Update for the model and the camera, and return MuJoCo's data."""
        model, data = physics.model.ptr, physics.data.ptr
        if model is not self._model:
            self._bind(model)
        if self._rays.aim(data):
            self._backward = data.cam_xmat[self.camera].reshape(3, 3)[:, 2].astype(np.float32)
            self._background = self._sky.sample(self._rays.directions32, self._rays.pixel)
        return data

    def render(self, physics: Any) -> np.ndarray:
        """Return the (height, width, 3) uint8 picture."""
        data = self._prepare(physics)
        rgba = self._materials.rgba()
        alpha = rgba[:, 3]
        rays, out = self._rays, self._draw_layer(data, rgba, alpha == 0)
        self._mask = self._shares.reshape(self.size)
        glass = (alpha > 0) & (alpha < 1)
        if glass.any():
            through = np.flatnonzero((rays.geom >= 0) & glass[rays.geom])
            share = alpha[rays.geom[through], None]
            if len(through):
                behind = self._draw_layer(data, rgba, alpha < 1)
                out[through] = share * out[through] + (1 - share) * behind[through]
        return out.astype(np.uint8).reshape(*self.size, 3)

    def _draw_layer(self, data: Any, rgba: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Return the picture (pixels, 3) in [0, 255] without some geoms, all else opaque."""
        rays, out = self._rays, self._background.copy()
        with rays.hide_geoms(hidden):
            rays.cast(data)
            hit = (rays.geom >= 0) & (rays.dist < self._reach)
            self._shares = self._solid.take(rays.geom) * hit
            flat = self._is_floor[rays.geom] & hit
            for plane, floor in self._floors.items():
                seen = np.flatnonzero(flat & (rays.geom == plane))
                floor.draw(
                    out,
                    data,
                    rgba[plane],
                    self._make_view(data),
                    seen,
                    self._make_shadow_test(data),
                )
            self._draw_solids(out, data, rgba, np.flatnonzero(hit & ~flat))
            self._draw_sprites(out, data)
        return np.minimum(out, 255, out=out)

    def _draw_solids(self, out: np.ndarray, data: Any, rgba: np.ndarray, hit: np.ndarray) -> None:
        """Draw everything but floors where the rays `hit` it."""
        if not len(hit):
            return
        rays = self._rays
        geom, direction = rays.geom.take(hit), rays.directions32.take(hit, 0)
        points = Points(
            position=direction * rays.dist.take(hit).astype(np.float32)[:, None],
            normal=rays.normal.take(hit, 0).astype(np.float32),
            rgb=(rgba[:, :3] * self._materials.tint).astype(np.float32).take(geom, 0),
            gloss=self._materials.gloss.take(geom, 0),
            direction=direction,
        )
        origin = data.cam_xpos[self.camera]
        out[hit] = (
            self._lights.shade(data, origin, self._backward, points, self._make_shadow_test(data))
            * 255
        )

    def _draw_sprites(self, out: np.ndarray, data: Any) -> None:
        """Draw sites and tendons over what lies behind them."""
        splats = self._sprites.find_splats(data)
        front = np.flatnonzero(splats.depth < self._compute_depth(splats.pixels)) if splats else ()
        if splats is None or not len(front):
            return
        pixels, rgba = splats.pixels[front], splats.rgba[front]
        direction = self._rays.directions32.take(pixels, 0)
        points = Points(
            position=direction
            * (splats.depth[front] / self._rays.cosine[pixels]).astype(np.float32)[:, None],
            normal=splats.normal[front],
            rgb=rgba[:, :3],
            gloss=splats.gloss[front],
            direction=direction,
        )
        colour = (
            self._lights.shade(
                data,
                data.cam_xpos[self.camera],
                self._backward,
                points,
                self._make_shadow_test(data),
            )
            * 255
        )
        share = (splats.cover[front] * rgba[:, 3])[:, None]
        out[pixels] = out[pixels] * (1 - share) + np.minimum(colour, 255) * share
        self._shares[pixels] = np.maximum(self._shares[pixels], share[:, 0])

    def _compute_depth(self, pixels: np.ndarray) -> np.ndarray:
        """Return how far along the camera's axis the rays of some pixels went."""
        return self._rays.dist[pixels] * self._rays.cosine[pixels]

    def mask(self, physics: Any) -> np.ndarray:
        """Return each pixel's share (height, width) of foreground in the last picture."""
        return self._mask

    def segment(self, physics: Any) -> np.ndarray:
        """Return labels (height, width) int32.

        -1 is sky, then geoms are numbered, then sites, then tendons.
        """
        data = self._prepare(physics)
        with self._rays.hide_geoms(self._materials.rgba()[:, 3] == 0):
            self._rays.cast(data)
        ids = np.where(self._rays.dist < self._reach, self._rays.geom, -1)
        splats = self._sprites.find_splats(data)
        if splats:
            front = (splats.depth < self._compute_depth(splats.pixels)) & splats.centre
            ids[splats.pixels[front]] = self._model.ngeom + splats.label[front]
        return ids.reshape(self.size)

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def _make_view(self, data: Any) -> View:
        """Return the camera's position and rays."""
        return View(data.cam_xpos[self.camera], self._backward, self._rays.directions32)

    def _make_shadow_test(self, data: Any) -> ShadowTest | None:
        """Return the function that finds the points a lamp reaches; None without shadows."""
        return partial(self._find_reached, data) if self.shadows else None

    def _find_reached(self, data: Any, lamp: int, points: np.ndarray) -> np.ndarray:
        """Return a mask of the points (n, 3), relative to the camera, that a lamp reaches."""
        model = self._model
        position = data.light_xpos[lamp].copy()
        if model.light_type[lamp] == _DIRECTIONAL:  # far away, so that rays are nearly parallel
            position = model.stat.center - 1e3 * model.stat.extent * data.light_xdir[lamp]
        rays = points + (data.cam_xpos[self.camera] - position)
        length = np.sqrt(np.einsum("ij,ij->i", rays, rays))
        rays /= length[:, None]
        geom, dist = self._shadow_geom[: len(rays)], self._shadow_dist[: len(rays)]
        cast_rays(model, data, position, rays, self._fixed_shadows, geom, dist)
        return (geom < 0) | (dist > length - self._shadow_slack)


def _is_static(model: Any, camera: int) -> bool:
    """Say whether neither the camera nor any lamp can move."""
    weld = np.asarray(model.body_weldid)
    bodies, modes = (
        [model.cam_bodyid[camera], *model.light_bodyid],
        [model.cam_mode[camera], *model.light_mode],
    )
    return not weld[bodies].any() and not any(modes)  # mode 0 is fixed to the body
