"""The headlight and lamps of a MuJoCo model, evaluated per pixel with numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

_DIRECTIONAL = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
# (index of the lamp, points (n, 3) relative to the camera) -> mask of the points it reaches
ShadowTest = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class Points:
    """The points where rays hit geoms; arrays have one row per ray."""

    position: np.ndarray  # (n, 3) relative to the camera, world axes
    normal: np.ndarray  # (3,) for a plane, else (n, 3)
    rgb: np.ndarray  # (3,) or (n, 3), in [0, 1]
    gloss: np.ndarray  # (n, 3): specular, shininess, emission; planes take their own row (3,)
    direction: np.ndarray | None = None  # (n, 3) unit, from the camera; None: no highlights

    def dot(self, vectors: np.ndarray) -> np.ndarray:
        """Return normal . vectors (n,) for vectors (n, 3)."""
        return (
            vectors @ self.normal
            if self.normal.ndim == 1
            else np.einsum("ij,ij->i", self.normal, vectors)
        )


def _compute_highlight(points: Points, to_light: np.ndarray, strength: float) -> np.ndarray:
    """Return the Blinn-Phong highlight (n, 1)."""
    half = to_light - points.direction
    cosine = points.dot(half) / np.sqrt(np.einsum("ij,ij->i", half, half) + 1e-12)
    return (
        strength * points.gloss[:, 0] * np.power(np.maximum(cosine, 0), 128 * points.gloss[:, 1])
    )[:, None]


class Lights:
    """All lights of a model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def list_active(self) -> list[int]:
        """Return the lamps that are on."""
        return np.flatnonzero(self._model.light_active).tolist()

    def shade(
        self,
        data: Any,
        origin: np.ndarray,
        backward: np.ndarray,
        points: Points,
        shadow_test: ShadowTest | None,
    ) -> np.ndarray:
        """Return colours (n, 3) in [0, 1+], seen from a camera at `origin` that looks opposite to
        `backward`.
        """
        total = self.compute_ambient(backward, points)
        for lamp in self.list_active():
            rows, glow = self.compute_lamp(data, lamp, origin, points)
            if len(rows) and shadow_test is not None and self._model.light_castshadow[lamp]:
                reached = shadow_test(lamp, points.position.take(rows, 0))
                rows, glow = rows[reached], glow[reached]
            total[rows] += glow
        return total

    def compute_ambient(self, backward: np.ndarray, points: Points) -> np.ndarray:
        """Return the light without lamps (n, 3): emission, ambient light and the headlight."""
        model, head = self._model, self._model.vis.headlight
        base = points.gloss[..., 2:] + model.light_ambient[self.list_active()].sum(0)
        shine: Any = 0.0
        if head.active:
            lambert = np.maximum(points.normal @ backward, 0)
            base = base + head.ambient + np.multiply.outer(lambert, head.diffuse)
            if points.direction is not None:
                shine = _compute_highlight(points, backward, float(np.mean(head.specular)))
        value = np.minimum(points.rgb * base + shine, 1).astype(np.float32)
        return value if value.ndim == 2 else np.repeat(value[None], len(points.position), 0)

    def compute_lamp(
        self, data: Any, index: int, origin: np.ndarray, points: Points
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the points (m,) that an unobstructed lamp lights, and their colours (m, 3)."""
        model = self._model
        axis = data.light_xdir[index].astype(np.float32)
        if model.light_type[index] == _DIRECTIONAL:
            to_light = np.broadcast_to(-axis, points.position.shape)
            weight = np.broadcast_to(points.normal @ -axis, len(to_light))
        else:
            to_light = (data.light_xpos[index] - origin).astype(np.float32) - points.position
            inverse = 1 / np.sqrt(np.einsum("ij,ij->i", to_light, to_light))
            cosine = (to_light @ -axis) * inverse
            narrow = cosine > np.cos(np.deg2rad(min(model.light_cutoff[index], 90.0)))
            weight = (
                np.power(np.maximum(cosine, 0), model.light_exponent[index]) * inverse * narrow
            )
            weight *= points.dot(to_light)
        near = np.flatnonzero(weight > 1e-3)
        return near, self._compute_glow(index, points, near, weight, to_light)

    def _compute_glow(
        self,
        index: int,
        points: Points,
        near: np.ndarray,
        weight: np.ndarray,
        to_light: np.ndarray,
    ) -> np.ndarray:
        """Return the light (m, 3) of one lamp at the points `near`."""
        diffuse = self._model.light_diffuse[index]
        if points.direction is None:
            return np.multiply.outer(weight.take(near), points.rgb * diffuse)
        gloss, direction = points.gloss.take(near, 0), points.direction.take(near, 0)
        some = Points(
            points.position,
            points.normal.take(near, 0),
            points.rgb.take(near, 0),
            gloss,
            direction,
        )
        unit = to_light.take(near, 0)
        unit = unit / np.sqrt(np.einsum("ij,ij->i", unit, unit))[:, None]
        shine = _compute_highlight(some, unit, float(np.mean(self._model.light_specular[index])))
        return np.minimum(some.rgb * diffuse * weight.take(near)[:, None] + shine, 1)
