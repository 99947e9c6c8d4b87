"""Noise on actions while collecting."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.spaces import ActionSpace


def add_exploration_noise(
    action: Tensor, space: ActionSpace, noise: float, generator: torch.Generator | None
) -> Tensor:
    """Add Gaussian noise within the box, or replace discrete actions by random ones with
    probability `noise`.
    """
    if not noise:
        return action
    if not space.discrete:
        return (
            action + noise * torch.randn(action.shape, generator=generator, device=action.device)
        ).clamp(-1, 1)
    other = space.random(len(action), generator)
    swap = torch.rand(len(action), 1, generator=generator, device=action.device) < noise
    return torch.where(swap, other, action)
