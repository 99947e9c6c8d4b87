"""A decoder that looks at a model without being part of it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from worldmodel.model.objectives import Context, Objective
from worldmodel.spaces import Losses, Metrics


class Probe(Objective):
    """Learns to draw pictures of features behind a stop-gradient, where no objective does.

    Its loss is in no sum, its gradients are clipped apart, and it draws no random numbers: the
    rest learns bit for bit as it would without.
    """

    def __init__(self, decoder: Objective):
        super().__init__()
        self.decoder, self.loss_names = decoder, decoder.loss_names

    @property
    def draws(self) -> bool:
        return True

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        """The decoder's losses, apart from everything else's graph."""
        return self.decoder(replace(ctx, feat=ctx.feat.detach(), slow=None))

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        return self.decoder.decode(feat)
