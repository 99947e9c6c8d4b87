"""Subtract from embeddings their mean, which is most of each one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.model.objectives import Mean


def subtract_mean(x: Tensor) -> Tensor:
    """(B,T,E) without the batch's mean."""
    return x - x.mean((0, 1))


class Centre(nn.Module):
    """Subtracts a batch's mean, and remembers the last one for embeddings outside a batch."""

    middle: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("middle", torch.zeros(size))
        self._seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self._seen = x.detach().mean((0, 1))
        return subtract_mean(x)

    def subtract_last_mean(self, x: Tensor) -> Tensor:
        """(...,E) without the last batch's mean."""
        return x - self.middle

    def after_update(self, mean: Mean) -> None:
        assert self._seen is not None
        self.middle.copy_(mean(self._seen))
