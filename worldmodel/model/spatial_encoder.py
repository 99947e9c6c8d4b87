"""Feature points of pictures: the encoder of deep spatial autoencoders (Finn et al. 2016).

Convolutions make K maps. A spatial softmax turns each map a into a distribution over its places,
and the feature point is where it expects to be (their equations 1 and 2):

s_ij = exp(a_ij / alpha) / sum_kl exp(a_kl / alpha)        with a learned temperature alpha
f    = (sum_ij s_ij x_j, sum_ij s_ij y_i)

The embedding of a picture is its K points. Their penalty on accelerations (equation 3) is
`loss.smooth`. With `loss.grey` a linear map draws a small grey version g of the picture from the
points alone:

|g - (W f + b)|^2        summed over pixels

The published autoencoder is trained by the sum of the two and nothing else. A linear map draws
small objects in the wrong place. With `loss.blobs` each point draws a blob of a learned colour c
and width s instead (cf. Jakab et al. 2018), in a picture of half the sides:

|p(x) - sum_k c_k exp(-|x - f_k|^2 / (2 s_k^2))|^2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.config.ranges import Width
from worldmodel.model.networks import Fp32Linear, initialize_convs

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

FIRST_WIDTH = 0.3  # of a blob, in a picture from -1 to 1
SHRINK = 4  # times as small as the picture are the sides of the grey one, as published (240 to 60)


@dataclass(frozen=True)
class Settings:
    section = "spatial"

    channels: list[Width]
    points: Width

    def contradictions(self, c: Config) -> list[str]:
        if c.env.obs == "state":
            return ["model.encoder: spatial finds points in pictures; env.obs is state"]
        return []


class SpatialEncoder(nn.Module):
    """Pictures without their mean images (N,H,W,C) -> points x, y in [-1, 1]: (N,2K), in fp32."""

    def __init__(self, settings: Settings, shape: tuple[int, int, int]):
        super().__init__()
        first, *others = [*settings.channels, settings.points]
        sizes = zip([first, *others], others, strict=False)
        convs = [
            nn.Conv2d(shape[2], first, 7, 2, 3),
            *(nn.Conv2d(a, b, 5, 1, 2) for a, b in sizes),
        ]
        self.convs = nn.ModuleList(convs)
        self.points, self.size = settings.points, 2 * settings.points
        self.log_temperature = nn.Parameter(torch.zeros(1))
        initialize_convs(self)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2)  # channels-last already
        for conv in self.convs[:-1]:
            x = F.silu(conv(x))
        return locate_points(self.convs[-1](x), self.log_temperature.exp()).flatten(1)


class PointDecoder(nn.Module):
    """Draws a small grey picture linearly from feature points: (...,K,2) -> (...,h*w)."""

    def __init__(self, points: int, shape: tuple[int, int, int]):
        super().__init__()
        self.size = shrink_sides(shape)
        self.linear = Fp32Linear(2 * points, self.size[0] * self.size[1])

    def forward(self, points: Tensor) -> Tensor:
        return self.linear(points.flatten(-2))

    def error(self, points: Tensor, picture: Tensor) -> Tensor:
        """The squared error (B,T) of what points (B,T,K,2) draw of pictures (B,T,H,W,C)."""
        grey = F.adaptive_avg_pool2d(picture.float().mean(-1), self.size).flatten(2)
        return (self(points) - grey).square().sum(-1)


class BlobDecoder(nn.Module):
    """Draws a picture of half the sides as Gaussian blobs at feature points: (...,K,2) ->
    (...,C,h,w).
    """

    def __init__(self, points: int, shape: tuple[int, int, int]):
        super().__init__()
        self.size = max(1, shape[0] // 2), max(1, shape[1] // 2)
        self.colour = nn.Parameter(0.1 * torch.randn(points, shape[2]))
        self.log_width = nn.Parameter(torch.full((points,), math.log(FIRST_WIDTH)))

    def forward(self, points: Tensor) -> Tensor:
        rows, columns = (place_pixels(n, points.device) for n in self.size)
        precision = (-2 * self.log_width).exp().unsqueeze(-1)
        across = (-0.5 * precision * (columns - points[..., :1]).square()).exp()  # (...,K,w)
        down = (-0.5 * precision * (rows - points[..., 1:]).square()).exp()  # (...,K,h)
        return torch.einsum("...kh,...kw,kc->...chw", down, across, self.colour)

    def error(self, points: Tensor, picture: Tensor) -> Tensor:
        """The squared error (B,T) of what points (B,T,K,2) draw of pictures (B,T,H,W,C)."""
        seen = picture.float().flatten(0, 1).permute(0, 3, 1, 2)
        small = F.adaptive_avg_pool2d(seen, self.size).unflatten(0, picture.shape[:2])
        return (self(points) - small).square().sum((-3, -2, -1))


def shrink_sides(shape: tuple[int, int, int]) -> tuple[int, int]:
    """The height and width of the small grey version of a picture (H,W,C)."""
    return max(1, shape[0] // SHRINK), max(1, shape[1] // SHRINK)


def locate_points(maps: Tensor, temperature: Tensor) -> Tensor:
    """The spatial soft-argmax of maps (N,K,h,w): places x, y (N,K,2) in fp32.

    (-1, -1) is the upper left corner of the picture, (1, 1) the lower right one.
    """
    rows, columns = maps.shape[-2:]
    share = (maps.float() / temperature).flatten(-2).softmax(-1).unflatten(-1, (rows, columns))
    x = (share.sum(-2) * place_pixels(columns, maps.device)).sum(-1)
    y = (share.sum(-1) * place_pixels(rows, maps.device)).sum(-1)
    return torch.stack([x, y], -1)


def place_pixels(count: int, device: torch.device) -> Tensor:
    """The centres of pixels that fill [-1, 1]."""
    return (2 * torch.arange(count, device=device) + 1) / count - 1


def penalize_acceleration(points: Sequence[Tensor], is_first: Tensor) -> Tensor:
    """|(f_t+1 - f_t) - (f_t - f_t-1)|^2 of points (B,T,K,2), summed over K: (B,T).

    It is zero at steps whose neighbours the sequence lacks, or that lie in another episode.
    """
    places = torch.cat([p.flatten(2) for p in points], -1).float()
    velocity = places[:, 1:] - places[:, :-1]
    penalty = (velocity[:, 1:] - velocity[:, :-1]).square().sum(-1)
    broken = is_first[:, 1:-1] | is_first[:, 2:]
    return F.pad(penalty.masked_fill(broken, 0.0), (1, 1))
