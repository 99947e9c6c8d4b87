"""Taking out of embeddings what they all have in common, which is most of every one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.model.objectives import Mean


def centred(x: Tensor) -> Tensor:
    """(B,T,E) without the batch's mean."""
    return x - x.mean((0, 1))


class Centre(nn.Module):
    """The same, and the last batch's mean is remembered for what comes alone."""

    middle: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("middle", torch.zeros(size))
        self._seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self._seen = x.detach().mean((0, 1))
        return centred(x)

    def alone(self, x: Tensor) -> Tensor:
        """(...,E) as `forward` would have it in the last batch."""
        return x - self.middle

    def after_update(self, mean: Mean) -> None:
        assert self._seen is not None
        self.middle.copy_(mean(self._seen))
