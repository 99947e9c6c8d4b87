"""A decoder that looks at a model without being part of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from worldmodel.model.objectives import Context, Objective


class Probe(nn.Module):
    """Learns to draw pictures of features behind a stop-gradient, where no objective does.

    Its loss is in no sum, its gradients are clipped apart, and it draws no random numbers: the
    rest learns bit for bit as it would without.
    """

    def __init__(self, decoder: Objective):
        super().__init__()
        self.decoder = decoder

    def loss(self, ctx: Context) -> Tensor:
        """Mean loss of the pictures, apart from everything else's graph."""
        seen = replace(ctx, feat=ctx.feat.detach(), slow=None)
        losses, _ = self.decoder(seen)
        return torch.stack([loss.mean() for loss in losses.values()]).sum()

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        return self.decoder.decode(feat)
