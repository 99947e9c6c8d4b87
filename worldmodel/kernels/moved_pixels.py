"""Moved pixels without gradients: one offset of all kernels after another, added up in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mix_pixels(still: Tensor, begun: Tensor, kernels: Tensor, masks: Tensor) -> Tensor | None:
    """`mix_pixels` of model/dynamics/pixels.py on a CPU, where no gradient is asked for."""
    if torch.is_grad_enabled() or still.device.type != "cpu":
        return None
    side, (height, width) = kernels.shape[-1], still.shape[-2:]
    still, begun, masks = still.contiguous(), begun.contiguous(), masks.contiguous()
    padded = F.pad(still, [side // 2] * 4, mode="replicate")
    mixed = (masks[:, :1] * still).addcmul_(masks[:, 1:2], begun)
    # How much each pixel takes from each offset, of all kernels
    shares = torch.bmm(kernels.flatten(2).mT, masks[:, 2:].flatten(2))
    shares = shares.unflatten(-1, (height, width))
    for offset in range(side * side):
        y, x = divmod(offset, side)
        window = padded[:, :, y : y + height, x : x + width]
        mixed.addcmul_(window, shares[:, offset].unsqueeze(1))
    return mixed
