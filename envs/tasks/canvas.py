"""A canvas that draws anti-aliased shapes with numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]


class Canvas:
    """A float picture on which the shorter side spans [-1, 1], x to the right and y upwards."""

    def __init__(self, size: tuple[int, int], top: Colour, bottom: Colour):
        self.height, self.width = size
        self.pixel = 2.0 / min(size)  # the width of one pixel in the picture's units
        self.xs = ((np.arange(self.width) + 0.5) - self.width / 2).astype(np.float32) * self.pixel
        self.ys = (self.height / 2 - (np.arange(self.height) + 0.5)).astype(
            np.float32
        ) * self.pixel
        mix = np.linspace(0, 1, self.height, dtype=np.float32)[:, None, None]
        column = np.asarray(top, np.float32) * (1 - mix) + np.asarray(bottom, np.float32) * mix
        self.background = np.ascontiguousarray(np.broadcast_to(column, (*size, 3)), np.float32)
        self.image = self.background.copy()
        # Share (H, W) of each pixel that was drawn over since `clear`; None unless tracked.
        self.cover: np.ndarray | None = None

    def clear(self) -> None:
        """Restore the background."""
        np.copyto(self.image, self.background)
        if self.cover is not None:
            self.cover.fill(0.0)

    def track_cover(self) -> None:
        """Track `cover` from now on."""
        self.cover = np.zeros((self.height, self.width), np.float32)

    def save_background(self) -> None:
        """Make the current picture the background."""
        np.copyto(self.background, self.image)

    def to_pixels(self) -> np.ndarray:
        """Return the picture as (H, W, 3) uint8."""
        return np.rint(self.image).astype(np.uint8)

    def fill(self, colour: Colour) -> None:
        """Fill the whole picture."""
        self.image[:] = colour
        if self.cover is not None:
            self.cover.fill(1.0)

    def draw_disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        self.draw_capsule(x, y, x, y, radius, colour)

    def draw_ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        """Draw a circle's outline, `width` to either side of `radius`."""
        window = self._window(
            x - radius - width, x + radius + width, y - radius - width, y + radius + width
        )
        dx, dy = self._offsets(window, x, y)
        self._blend(window, np.abs(np.sqrt(dx * dx + dy * dy) - radius) - width, colour)

    def draw_capsule(
        self, x0: float, y0: float, x1: float, y1: float, radius: float, colour: Colour
    ) -> None:
        """Fill a thick line with round ends."""
        window = self._window(
            min(x0, x1) - radius, max(x0, x1) + radius, min(y0, y1) - radius, max(y0, y1) + radius
        )
        dx, dy = self._offsets(window, x0, y0)
        ax, ay = x1 - x0, y1 - y0
        length2 = ax * ax + ay * ay
        if length2 > 0:
            along = np.minimum(np.maximum((dx * ax + dy * ay) / length2, 0.0), 1.0)
            dx, dy = dx - along * ax, dy - along * ay
        self._blend(window, np.sqrt(dx * dx + dy * dy) - radius, colour)

    def draw_box(
        self, x: float, y: float, half_width: float, half_height: float, colour: Colour
    ) -> None:
        """Fill an upright rectangle."""
        window = self._window(x - half_width, x + half_width, y - half_height, y + half_height)
        dx, dy = self._offsets(window, x, y)
        self._blend(window, np.maximum(np.abs(dx) - half_width, np.abs(dy) - half_height), colour)

    def draw_polygon(self, corners: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Fill a convex polygon, whose corners are given counter-clockwise."""
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        window = self._window(min(xs), max(xs), min(ys), max(ys))
        dx, dy = self._offsets(window, 0.0, 0.0)
        distance = None
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            length = math.hypot(x1 - x0, y1 - y0)
            nx, ny = (y1 - y0) / length, (x0 - x1) / length  # the edge's outward normal
            beyond = dx * np.float32(nx) + (dy * np.float32(ny) - np.float32(x0 * nx + y0 * ny))
            distance = beyond if distance is None else np.maximum(distance, beyond)
        assert distance is not None, "a polygon has corners"
        self._blend(window, distance, colour)

    def _window(self, left: float, right: float, low: float, high: float) -> tuple[slice, slice]:
        """Return the rows and columns that a shape within these bounds can touch."""
        top, bottom = self.height / 2 - high / self.pixel, self.height / 2 - low / self.pixel
        first, last = self.width / 2 + left / self.pixel, self.width / 2 + right / self.pixel
        rows = slice(max(int(top) - 1, 0), max(int(bottom) + 2, 0))
        return rows, slice(max(int(first) - 1, 0), max(int(last) + 2, 0))

    def _offsets(
        self, window: tuple[slice, slice], x: float, y: float
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.xs[None, window[1]] - np.float32(x), self.ys[window[0], None] - np.float32(y)

    def _blend(self, window: tuple[slice, slice], distance: np.ndarray, colour: Colour) -> None:
        """Blend `colour` in where the signed distance to the shape is below half a pixel."""
        cover = np.minimum(np.maximum(0.5 - distance / np.float32(self.pixel), 0.0), 1.0)
        area = self.image[window]
        area += cover[:, :, None] * (np.asarray(colour, np.float32) - area)
        if self.cover is not None:
            drawn = self.cover[window]
            drawn += cover * (1.0 - drawn)
