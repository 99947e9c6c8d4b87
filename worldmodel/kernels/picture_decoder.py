"""Pictures of many features at once in fp32, without gradients and without maps in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.kernels.c_library import call, load_library

WIDE = 16  # outputs that a packed matrix keeps together


class PackedDecoder:
    """The weights of an `ImageDecoder` and a mean picture (H,W,C), packed for the C half.

    Pixels may differ by one from the decoder's own, where sums in another order round differently.
    """

    def __init__(self, decoder: Any, mean: Tensor):
        *doubling, last = decoder.convs
        self.project, self.start, self.shape = decoder.project, decoder.start, tuple(mean.shape)
        self.patch, self.mean = last.patch, (mean.detach() / 255).contiguous()
        parts, self.most = [], _count_map(self.start)
        for layer, conv in enumerate(doubling):
            weight, outputs = conv.phases.weight.detach(), conv.phases.out_channels // 4
            split = weight.view(4, outputs // WIDE, WIDE, *weight.shape[1:])
            parts += [split.permute(0, 1, 4, 5, 3, 2), conv.phases.bias.detach()]
            height, width = (size << (layer + 1) for size in self.start[:2])
            self.most = max(self.most, _count_map((height, width, outputs)))
        weight = last.patches.weight.detach().flatten(1)
        blocks = weight.view(-1, WIDE, weight.shape[1]).transpose(1, 2)
        parts += [blocks, last.patches.bias.detach()]
        self.weights = torch.cat([part.flatten() for part in parts])
        self.sizes = torch.tensor([conv.phases.out_channels // 4 for conv in doubling])

    @staticmethod
    def supports(decoder: Any) -> bool:
        """Whether the C half has these layers, in sizes that fill its blocks."""
        library, (*doubling, last) = load_library(), decoder.convs
        if not hasattr(library, "decode_pictures") or not hasattr(last, "patches"):
            return False
        sizes = [conv.phases.out_channels // 4 for conv in doubling] + [last.patches.out_channels]
        weight = decoder.project.weight
        is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        return is_plain and not any(size % WIDE for size in sizes)

    def decode_pixels(self, feat: Tensor) -> Tensor:
        """Pictures (N,H,W,C) uint8 of features (N,F)."""
        start = F.linear(feat, self.project.weight, self.project.bias)
        y = torch.empty(len(feat), *self.shape, dtype=torch.uint8)
        call(
            "decode_pictures",
            start,
            self.weights,
            self.sizes,
            self.mean,
            y,
            len(feat),
            *self.start,
            len(self.sizes),
            self.patch,
            self.shape[-1],
            self.most,
        )
        return y


def _count_map(shape: tuple[int, int, int]) -> int:
    """The numbers of a map (h,w,c) with a border of one."""
    return (shape[0] + 2) * (shape[1] + 2) * shape[2]
