"""Textures, the sky and the materials of a MuJoCo model, evaluated per pixel with numpy."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

_TEXTURE_RGB = int(mujoco.mjtTextureRole.mjTEXROLE_RGB)
_CUBE = (int(mujoco.mjtTexture.mjTEXTURE_CUBE), int(mujoco.mjtTexture.mjTEXTURE_SKYBOX))
_PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)


def read_texture(model: Any, index: int) -> np.ndarray:
    """Read the (height, width, 3) uint8 picture of a texture."""
    height, width, channels = (
        model.tex_height[index],
        model.tex_width[index],
        model.tex_nchannel[index],
    )
    start = model.tex_adr[index]
    image = np.asarray(model.tex_data[start : start + height * width * channels]).reshape(
        height, width, channels
    )
    return image[..., :3] if channels >= 3 else np.repeat(image[..., :1], 3, -1)


class Pyramid:
    """A square texture and its halved copies in one flat array, so that a lookup is one gather."""

    def __init__(self, image: np.ndarray, smallest: int = 1) -> None:
        level = image.astype(np.float32)
        levels, sizes, starts, start = [], [], [], 0
        while True:
            height, width = level.shape[:2]
            levels.append(level.reshape(-1, 3))
            sizes.append((height, width))
            starts.append(start)
            start += height * width
            if min(height, width) < 2 * smallest:
                break
            level = level[: height // 2 * 2, : width // 2 * 2]
            # Their mean in the order of np.mean, which takes several times as long.
            level = level[::2, ::2] + level[::2, 1::2] + level[1::2, ::2] + level[1::2, 1::2]
            level *= np.float32(0.25)
        self.texels = np.concatenate(levels)
        self.starts = np.array(starts, np.int32)
        self.heights, self.widths = np.array(sizes, np.float32).T.copy()

    def sample(self, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Return texels (n, 3) at u, v in [0, 1); `footprint` is a pixel's share of the width."""
        texels_per_pixel = np.maximum(footprint * self.widths[0], 1.0)
        level = np.minimum(np.frexp(texels_per_pixel)[1] - 1, len(self.starts) - 1)
        width = self.widths[level]
        column = (u * width).astype(np.int32)
        row = (v * self.heights[level]).astype(np.int32)
        return self.texels[self.starts[level] + row * width.astype(np.int32) + column]


class Sky:
    """The skybox seen from inside, or black."""

    # In the order of storage: main axis and its sign, then axis and sign along columns and rows.
    FACES = (
        (0, 1, (1, 1), (2, -1)),
        (0, -1, (1, -1), (2, -1)),
        (2, 1, (0, 1), (1, -1)),
        (2, -1, (0, 1), (1, 1)),
        (1, -1, (0, 1), (2, -1)),
        (1, 1, (0, -1), (2, -1)),
    )

    def __init__(self, model: Any) -> None:
        skies = np.flatnonzero(
            np.asarray(model.tex_type) == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        )
        self.faces: list[Pyramid] = []
        if len(skies):
            image = read_texture(model, int(skies[0]))
            width = image.shape[1]
            count = max(image.shape[0] // width, 1)
            self.faces = [
                Pyramid(image[i * width : (i + 1) * width], smallest=4) for i in range(count)
            ]
            self.faces = (self.faces * 6)[:6]

    def sample(self, directions: np.ndarray, pixel: float) -> np.ndarray:
        """Return colours (n, 3) in [0, 255] for unit directions (n, 3); a pixel spans `pixel`
        radians.
        """
        out = np.zeros(directions.shape, np.float32)
        if not self.faces:
            return out
        main = np.abs(directions).argmax(1)
        # A face is 2 wide, so this samples texels of one pixel; smaller ones look harsh.
        footprint = np.full(len(main), pixel, np.float32)
        for face, (axis, sign, right, down) in zip(self.faces, self.FACES, strict=True):
            chosen = np.flatnonzero((main == axis) & (directions[:, axis] * sign > 0))
            if not len(chosen):
                continue
            ray = directions[chosen] / np.abs(directions[chosen, axis : axis + 1])
            u = np.clip(0.5 + 0.5 * right[1] * ray[:, right[0]], 0, 1 - 1e-6)
            v = np.clip(0.5 + 0.5 * down[1] * ray[:, down[0]], 0, 1 - 1e-6)
            out[chosen] = face.sample(u, v, footprint[: len(chosen)])
        return out


class Materials:
    """The colour and gloss of each geom and, for planes, its texture."""

    def __init__(self, model: Any) -> None:
        self._model = model
        ids = np.asarray(model.geom_matid)
        self._has = ids >= 0
        self._ids = np.maximum(ids, 0)
        gloss = (model.mat_specular, 0.5), (model.mat_shininess, 0.5), (model.mat_emission, 0.0)
        self.gloss = np.stack([self._pick(*each) for each in gloss], -1)
        self.textures: dict[int, Pyramid] = {}
        self.tint = np.ones((model.ngeom, 3), np.float32)
        pyramids: dict[int, Pyramid] = {}
        for geom in np.flatnonzero(self._has):
            index = int(model.mat_texid[ids[geom], _TEXTURE_RGB])
            if index < 0:
                continue
            if index not in pyramids:
                image = read_texture(model, index)
                pyramids[index] = Pyramid(
                    image if int(model.tex_type[index]) not in _CUBE else image[: image.shape[1]]
                )
            if model.geom_type[geom] == _PLANE and int(model.tex_type[index]) not in _CUBE:
                self.textures[int(geom)] = pyramids[index]
            else:  # a textured solid gets its texture's mean colour
                self.tint[geom] = pyramids[index].texels[-1] / 255

    def _pick(self, values: Any, default: float) -> np.ndarray:
        values = np.asarray(values)
        if not len(values):
            return np.full(len(self._ids), default, np.float32)
        return np.where(self._has, values[self._ids], default).astype(np.float32)

    def rgba(self) -> np.ndarray:
        """Return the current colours (geoms, 4).

        A geom's own colour overrides its material's unless it is the default.
        """
        own = self._model.geom_rgba
        if not self._has.any():
            return own
        default = (own == (0.5, 0.5, 0.5, 1)).all(1) & self._has
        return np.where(default[:, None], self._model.mat_rgba[self._ids], own)
