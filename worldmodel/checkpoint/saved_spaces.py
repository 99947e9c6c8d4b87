"""The spaces in a checkpoint's state."""

from __future__ import annotations

from typing import Any

from worldmodel.checkpoint.validate import check_observation, check_spaces
from worldmodel.spaces import ActionSpace, ObservationSpace


def read_spaces(state: dict[str, Any]) -> tuple[ObservationSpace, ActionSpace]:
    """The spaces a checkpoint was trained with."""
    check_spaces(state)
    a = state["action"]
    observation = ObservationSpace(check_observation(state))
    return observation, ActionSpace(a["size"], tuple(a["groups"]), a["scalar"])
