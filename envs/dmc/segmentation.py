"""The masks that separate a MuJoCo scene's task from its background (sky and ground)."""

from __future__ import annotations

from typing import Any

import numpy as np


def mask_foreground(physics: Any, ids: np.ndarray) -> np.ndarray:
    """Mask (height, width) what is neither sky nor ground in a renderer's labels."""
    return find_solid_labels(physics.model)[ids]


def find_solid_labels(model: Any) -> np.ndarray:
    """Return for each label of `segment` whether it is neither ground nor sky (the last label)."""
    import mujoco

    ground = (int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_HFIELD))
    found = np.ones(model.ngeom + model.nsite + model.ntendon + 1, bool)
    found[: model.ngeom] = ~np.isin(model.geom_type, ground)
    found[-1] = False  # label -1
    return found
