"""Random shifts of pictures (Kostrikov et al. 2020), one for a whole sequence as in DreamerPro."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_shifts(batch: int, length: int, most: int, device: torch.device) -> Tensor:
    """Draw row and column shifts (B,T,2) from -most to most, one pair per sequence."""
    return torch.randint(-most, most + 1, (batch, 1, 2), device=device).expand(-1, length, -1)


def shift_pictures(pictures: Tensor, shifts: Tensor) -> Tensor:
    """Shift pictures (B,T,H,W,C) by (B,T,2), the same over T; pixels at an edge repeat."""
    batch, length, height, width, _ = pictures.shape
    device = pictures.device
    rows = (torch.arange(height, device=device) + shifts[:, 0, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) + shifts[:, 0, 1:]).clamp(0, width - 1)
    sequence = torch.arange(batch, device=device)[:, None, None, None]
    time = torch.arange(length, device=device)[:, None, None]
    return pictures[sequence, time, rows[:, None, :, None], columns[:, None, None, :]]
