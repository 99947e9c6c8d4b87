"""The two OpenGL renderers: dm_control's standard picture, and a cheaper version of it."""

from __future__ import annotations

import importlib
from typing import Any

import mujoco
import numpy as np

from .segmentation import mask_foreground


class GLRenderer:
    """dm_control's standard picture, as in published scores."""

    name = "gl"

    def __init__(
        self,
        size: tuple[int, int] = (64, 64),
        camera: int = 0,
        buffer: tuple[int, int] | None = None,
    ) -> None:
        """Draw pictures of `size`; renderers of one physics share the largest `buffer`."""
        self.size = size
        self.camera = camera
        self.buffer = buffer or size
        self._physics: Any = None

    def _bind(self, physics: Any) -> None:
        """Prepare for a physics object that was not drawn before."""
        if physics is self._physics:
            return
        self.close()
        self._physics = physics
        if self._prepare(physics.model) and physics._contexts:
            physics._free_rendering_contexts()

    def _prepare(self, model: Any) -> bool:
        """Set the model's options that a new GL context reads; return whether any changed."""
        buffer = model.vis.global_
        before = buffer.offheight, buffer.offwidth
        buffer.offheight = max(buffer.offheight, self.buffer[0])
        buffer.offwidth = max(buffer.offwidth, self.buffer[1])
        return before != (buffer.offheight, buffer.offwidth)

    def render(self, physics: Any) -> np.ndarray:
        """Return the (height, width, 3) uint8 picture."""
        self._bind(physics)
        return np.ascontiguousarray(physics.render(*self.size, camera_id=self.camera))

    def segment(self, physics: Any) -> np.ndarray:
        """Return labels (height, width) int32.

        -1 is sky, then geoms are numbered, then sites, then tendons.
        """
        self._bind(physics)
        number, kind = np.moveaxis(
            physics.render(*self.size, camera_id=self.camera, segmentation=True), -1, 0
        )
        model = physics.model
        out = np.full(self.size, -1, np.int32)
        kinds = (mujoco.mjtObj.mjOBJ_GEOM, mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_TENDON)
        for label, start in zip(kinds, (0, model.ngeom, model.ngeom + model.nsite), strict=True):
            out = np.where(kind == int(label), number + start, out)
        return out

    def mask(self, physics: Any) -> np.ndarray:
        """Return 1 where a pixel (height, width) shows neither sky nor ground, else 0.

        This renders another picture.
        """
        return mask_foreground(physics, self.segment(physics)).astype(np.float32)

    def close(self) -> None:
        """Free the GL context."""
        if self._physics is not None and self._physics._contexts:
            self._physics._free_rendering_contexts()
        self._physics = None


class FastRenderer(GLRenderer):
    """The standard picture with a small shadow map, no multisampling, and a persistent camera."""

    name = "fast"

    def _bind(self, physics: Any) -> None:
        if physics is not self._physics:
            super()._bind(physics)
            self._view = importlib.import_module("dm_control.mujoco").Camera(
                physics, *self.size, self.camera
            )

    def _prepare(self, model: Any) -> bool:
        model.vis.quality.shadowsize = 512
        model.vis.quality.offsamples = 0
        model.vis.global_.offheight, model.vis.global_.offwidth = self.buffer
        return True

    def render(self, physics: Any) -> np.ndarray:
        """Return the (height, width, 3) uint8 picture."""
        self._bind(physics)
        return np.ascontiguousarray(self._view.render())
