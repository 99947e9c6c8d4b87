"""A slowly updated copy of a module."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class SlowCopy(nn.Module):
    """An exponential moving average of a module's weights; it is never trained itself."""

    def __init__(self, module: nn.Module, rate: float):
        super().__init__()
        self.copy, self.rate = copy.deepcopy(module).requires_grad_(False), rate

    @torch.no_grad()
    def forward(self, *inputs) -> Tensor:
        return self.copy(*inputs)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        torch._foreach_lerp_(list(self.copy.parameters()), list(module.parameters()), self.rate)
