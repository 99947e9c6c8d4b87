"""Squared error, PSNR and SSIM of pictures (...,H,W,C) in [0, 1], each (...)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The squared error of rounding to 8 bits, which keeps PSNR finite.
MIN_ERROR = (1 / 255) ** 2 / 12
WINDOW, SIGMA = 11, 1.5
STABILIZERS = (0.01**2, 0.03**2)  # keep SSIM's two ratios finite in flat regions


def squared_error(found: Tensor, truth: Tensor) -> Tensor:
    return (found - truth).square().mean((-3, -2, -1))


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a squared error; at most 58.9."""
    return -10 * error.clamp(min=MIN_ERROR).log10()


def ssim(found: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13), averaged over windows and channels.

    The window is Gaussian with 11 pixels, or the largest odd size that fits into the picture.
    """
    shape, (height, width, channels) = found.shape[:-3], found.shape[-3:]
    size = min(WINDOW, height - 1 + height % 2, width - 1 + width % 2)
    offset = torch.arange(size, dtype=found.dtype, device=found.device) - size // 2
    weight = torch.exp(-0.5 * (offset / SIGMA).square())
    weight = weight / weight.sum()

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))

    x, y = (
        p.movedim(-1, -3).reshape(-1, 1, height, width) for p in (found, truth.expand_as(found))
    )
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x * mean_x, blur(y * y) - mean_y * mean_y
    both = blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + STABILIZERS[0]) / (
        mean_x * mean_x + mean_y * mean_y + STABILIZERS[0]
    )
    form = (2 * both + STABILIZERS[1]) / (var_x + var_y + STABILIZERS[1])
    return (light * form).mean((-3, -2, -1)).view(*shape, channels).mean(-1)
