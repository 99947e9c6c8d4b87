"""The mean picture, subtracted before pictures are encoded and added to decoded ones.

A small moving object is a small share of a picture. While its still background dominates every
embedding, the posteriors of different pictures start out nearly equal, and the latent may ignore
the observations for many updates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldmodel.kernels import elementwise, replaceable_by

GREY = 127.5


class MeanImage(nn.Module):
    """Mean picture of the first `updates` updates; mid-grey before them, and if there are none."""

    picture: Tensor  # (H,W,C) in [0, 255]

    def __init__(self, shape: tuple[int, int, int], updates: int):
        super().__init__()
        self.updates = updates
        self.register_buffer("picture", torch.full(shape, GREY), persistent=updates > 0)

    @torch.no_grad()
    def accumulate(
        self, image: Tensor, update: int, over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Add the pictures (B,T,H,W,C) of update number `update`, counted from 0, to the mean.

        `over_ranks` averages it over processes.
        """
        if update < self.updates:
            mean = image.float().mean((0, 1))
            self.picture.lerp_(over_ranks(mean) if over_ranks else mean, 1 / (update + 1))

    def subtract_from(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 pixels (...,H,W,C) to floats around zero."""
        return centre_image(image, self.picture, dtype)

    def error(self, mean: Tensor, image: Tensor) -> Tensor:
        """Half the summed squared difference (N,) of decoded pictures and uint8 pixels, both
        (N,H,W,C).
        """
        return picture_error(mean, image, self.picture)

    def add_to(self, mean: Tensor) -> Tensor:
        """Decoded pictures without their mean (...,H,W,C) to floats in about [0, 1]."""
        return mean.float() + self.picture / 255


@replaceable_by(elementwise.centre_image)
def centre_image(image: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 pixels (...,H,W,C) minus a mean picture (H,W,C), in units of the whole range."""
    # Whole numbers up to 255 are exact in bf16 too.
    return image.to(dtype).sub_(mean.to(dtype)).mul_(1 / 255)


@replaceable_by(elementwise.picture_error)
def picture_error(decoded: Tensor, image: Tensor, mean: Tensor) -> Tensor:
    """Half the summed squared difference (N,) of decoded pictures and centred pixels (N,H,W,C)."""
    difference = decoded.float() - centre_image(image, mean, torch.float32)
    return 0.5 * difference.square().flatten(1).sum(1)


def to_pixels(mean: Tensor) -> Tensor:
    """Floats in [0, 1] to uint8."""
    return mean.clamp(0, 1).mul_(255).round_().to(torch.uint8)
