"""Textured planes; their texture and light are cached while camera and lamps do not move."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .lights import Lights, Points, ShadowTest
from .shading import Pyramid


class View(NamedTuple):
    """A camera's position, the direction opposite to its view, and its pixels' rays."""

    origin: np.ndarray  # (3,)
    backward: np.ndarray  # (3,)
    directions: np.ndarray  # (pixels, 3) unit, float32


class _Layers(NamedTuple):
    """A floor's colours at some pixels: without lamps, and what each unobstructed lamp adds."""

    position: np.ndarray  # (n, 3) relative to the camera
    base: np.ndarray  # (n, 3) in [0, 255]
    lamps: list[tuple[int, np.ndarray, np.ndarray]]  # lamp, rows (m,), colours (m, 3) in [0, 255]


class Floor:
    """One textured plane of a model; `static` means that plane, camera and lamps cannot move."""

    def __init__(
        self,
        model: Any,
        geom: int,
        pyramid: Pyramid,
        pixel: float,
        lights: Lights,
        gloss: np.ndarray,
        static: bool,
    ) -> None:
        material = model.geom_matid[geom]
        size = np.asarray(model.geom_size[geom, :2])
        repeat = np.asarray(model.mat_texrepeat[material], np.float64)
        if not model.mat_texuniform[material]:
            repeat = 2 * repeat / np.where(size > 0, 2 * size, 1)
        self._model, self._geom, self._pyramid, self._lights, self._gloss = (
            model,
            geom,
            pyramid,
            lights,
            gloss,
        )
        self._corner = size.copy()  # the texture starts at the plane's corner
        self._scale = 0.5 * repeat
        self._footprint = float(pixel * self._scale[0])
        self._static = static
        self._key = b""
        self._cached: _CachedLayers | None = None

    def draw(
        self,
        out: np.ndarray,
        data: Any,
        rgba: np.ndarray,
        view: View,
        seen: np.ndarray,
        shadow_test: ShadowTest | None,
    ) -> None:
        """Draw into the picture `out` (pixels, 3) where the plane is `seen`."""
        if not self._static:
            layers = self._compute_layers(data, rgba, view, seen)
            out[seen] = layers.base
            for lamp, rows, colours in layers.lamps:
                self._add_lamp(
                    out, lamp, seen[rows], layers.position.take(rows, 0), colours, shadow_test
                )
            return
        cached = self._cache_layers(data, rgba, view)
        out[seen] = cached.base.take(seen, 0)
        for lamp, bright, colours in cached.lamps:
            pixels = seen[bright.take(seen)]
            self._add_lamp(
                out,
                lamp,
                pixels,
                cached.position.take(pixels, 0),
                colours.take(pixels, 0),
                shadow_test,
            )

    def _cache_layers(self, data: Any, rgba: np.ndarray, view: View) -> _CachedLayers:
        """Return the layers of the whole picture, computed again only if something changed."""
        key = self._make_cache_key(data, rgba, view)
        if self._cached is None or key != self._key:
            facing = np.flatnonzero(
                view.directions @ data.geom_xmat[self._geom, 2::3].astype(np.float32) < -1e-4
            )
            self._key, self._cached = (
                key,
                _CachedLayers(
                    self._compute_layers(data, rgba, view, facing), facing, len(view.directions)
                ),
            )
        return self._cached

    def _add_lamp(
        self,
        out: np.ndarray,
        lamp: int,
        pixels: np.ndarray,
        position: np.ndarray,
        colours: np.ndarray,
        shadow_test: ShadowTest | None,
    ) -> None:
        """Add a lamp's light where no shadow falls."""
        if shadow_test is not None and len(pixels) and self._model.light_castshadow[lamp]:
            reached = shadow_test(lamp, position)
            pixels, colours = pixels[reached], colours[reached]
        out[pixels] += colours

    def _make_cache_key(self, data: Any, rgba: np.ndarray, view: View) -> bytes:
        """Return a key of all values that the layers depend on and that may change."""
        model, pose = self._model, (data.geom_xpos[self._geom], data.geom_xmat[self._geom])
        lamps = (
            data.light_xpos,
            data.light_xdir,
            model.light_active,
            model.light_diffuse,
            model.light_ambient,
        )
        head = (
            model.vis.headlight.ambient,
            model.vis.headlight.diffuse,
            np.array(model.vis.headlight.active),
        )
        return b"".join(
            each.tobytes()
            for each in (
                view.origin,
                view.backward,
                view.directions[0],
                *pose,
                *lamps,
                *head,
                rgba,
            )
        )

    def _compute_layers(
        self, data: Any, rgba: np.ndarray, view: View, pixels: np.ndarray
    ) -> _Layers:
        """Compute texture and light for pixels whose rays hit the plane."""
        normal = data.geom_xmat[self._geom, 2::3].astype(np.float32)
        direction = view.directions.take(pixels, 0)
        height = np.float32((data.geom_xpos[self._geom] - view.origin) @ normal)
        dist = height / (direction @ normal)
        points = Points(
            direction * dist[:, None], normal, rgba[:3].astype(np.float32), self._gloss
        )
        texture = self._sample_texture(data, view.origin, points.position, dist)
        lamps = []
        for lamp in self._lights.list_active():
            rows, colours = self._lights.compute_lamp(data, lamp, view.origin, points)
            lamps.append((lamp, rows, colours * texture.take(rows, 0)))
        return _Layers(
            points.position, self._lights.compute_ambient(view.backward, points) * texture, lamps
        )

    def _sample_texture(
        self, data: Any, origin: np.ndarray, points: np.ndarray, dist: np.ndarray
    ) -> np.ndarray:
        """Return colours (n, 3) in [0, 255] at points (n, 3), relative to the camera."""
        pose = data.geom_xmat[self._geom].reshape(3, 3) * (1, -1, 1)
        start = ((origin - data.geom_xpos[self._geom]) @ pose[:, :2] + self._corner) * self._scale
        uv = points @ (pose[:, :2] * self._scale).astype(np.float32)
        # Drop whole repeats first: far from the origin they cost float32 its precision.
        uv += (start % 1).astype(np.float32)
        uv -= np.floor(uv)
        np.minimum(uv, 1 - 1e-6, out=uv)
        height = abs(float((origin - data.geom_xpos[self._geom]) @ pose[:, 2]))
        # A pixel's footprint is dist x dist / height long and dist wide; the square texel takes
        # the geometric mean.
        footprint = dist * np.sqrt(dist * np.float32(self._footprint**2 / max(height, 1e-3)))
        return self._pyramid.sample(uv[:, 0], uv[:, 1], footprint)


class _CachedLayers:
    """Layers of the whole picture, indexed by pixel number."""

    def __init__(self, layers: _Layers, pixels: np.ndarray, count: int) -> None:
        self.position = np.zeros((count, 3), np.float32)
        self.position[pixels] = layers.position
        self.base = np.zeros((count, 3), np.float32)
        self.base[pixels] = layers.base
        self.lamps = []
        for lamp, rows, colours in layers.lamps:
            bright, everywhere = np.zeros(count, bool), np.zeros((count, 3), np.float32)
            bright[pixels[rows]] = True
            everywhere[pixels[rows]] = colours
            self.lamps.append((lamp, bright, everywhere))
