"""Which pixels and geoms of a MuJoCo scene belong to the task, and which to its background."""

from __future__ import annotations

from typing import Any

import numpy as np


def foreground(physics: Any, ids: np.ndarray) -> np.ndarray:
    """Return the mask (height, width) of what is neither sky nor ground, from a renderer's
    `segment`.
    """
    return solid(physics.model)[ids]


def solid(model: Any) -> np.ndarray:
    """Return by a label of `segment` whether it is neither ground nor sky, whose label is the
    last.
    """
    import mujoco

    ground = (int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_HFIELD))
    found = np.ones(model.ngeom + model.nsite + model.ntendon + 1, bool)
    found[: model.ngeom] = ~np.isin(model.geom_type, ground)
    found[-1] = False  # label -1
    return found
