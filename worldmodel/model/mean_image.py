"""The mean picture, taken out before pictures are encoded and put back when they are drawn.

A small thing that moves is a small share of a picture. While its still surroundings dominate every
embedding, the posteriors of different pictures start out nearly equal, and the latent may ignore
what it sees for many updates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldmodel.kernels import elementwise, replaceable_by

GREY = 127.5


class MeanImage(nn.Module):
    """Mean of the pictures of the first `watched` updates, mid-grey before that and where nothing
    is watched.
    """

    picture: Tensor  # (H,W,C) in [0, 255]

    def __init__(self, shape: tuple[int, int, int], watched: int):
        super().__init__()
        self.watched = watched
        self.register_buffer("picture", torch.full(shape, GREY), persistent=watched > 0)

    @torch.no_grad()
    def watch(
        self, image: Tensor, update: int, over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Take the pictures (B,T,H,W,C) of update number `update`, counted from 0, into the mean.

        `over_ranks` makes one process's mean picture that of all.
        """
        if update < self.watched:
            mean = image.float().mean((0, 1))
            self.picture.lerp_(over_ranks(mean) if over_ranks else mean, 1 / (update + 1))

    def take_out(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 pixels (...,H,W,C) to floats around zero."""
        return centre_image(image, self.picture, dtype)

    def error(self, mean: Tensor, image: Tensor) -> Tensor:
        """Half the summed squared difference (N,) of what was drawn and uint8 pixels, both
        (N,H,W,C).
        """
        return picture_error(mean, image, self.picture)

    def put_back(self, mean: Tensor) -> Tensor:
        """Drawn pictures less their mean (...,H,W,C) to floats in about [0, 1]."""
        return mean.float() + self.picture / 255


@replaceable_by(elementwise.centred)
def centre_image(image: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 pixels (...,H,W,C) minus a mean picture (H,W,C), in units of the whole range."""
    # Whole numbers up to 255 are exact in bf16 too.
    return image.to(dtype).sub_(mean.to(dtype)).mul_(1 / 255)


@replaceable_by(elementwise.picture_error)
def picture_error(drawn: Tensor, image: Tensor, mean: Tensor) -> Tensor:
    """Half the summed squared difference (N,) of drawn pictures and centred pixels (N,H,W,C)."""
    difference = drawn.float() - centre_image(image, mean, torch.float32)
    return 0.5 * difference.square().flatten(1).sum(1)


def to_pixels(mean: Tensor) -> Tensor:
    """Floats in [0, 1] to uint8."""
    return (mean.clamp(0, 1) * 255).round().to(torch.uint8)
