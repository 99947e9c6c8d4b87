"""A decoder to look at a model with, which does not affect its training."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from worldmodel.model.objectives import Context, Objective
from worldmodel.spaces import Losses, Metrics


class Probe(Objective):
    """Learns to decode pictures from features behind a stop-gradient, if no objective does.

    Its loss is added to no other, its gradients are clipped separately, and it draws no random
    numbers: the rest is trained bit for bit as without it.
    """

    def __init__(self, decoder: Objective):
        super().__init__()
        self.decoder, self.loss_names = decoder, decoder.loss_names

    @property
    def can_draw(self) -> bool:
        return True

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        """The decoder's losses, outside the model's graph."""
        return self.decoder(replace(ctx, feat=ctx.feat.detach(), slow=None))

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        return self.decoder.decode(feat)

    def list_picture_decoders(self) -> dict[str, nn.Module]:
        return self.decoder.list_picture_decoders()
