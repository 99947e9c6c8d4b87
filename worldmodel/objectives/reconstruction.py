"""Reconstruct what was seen: the likelihood term of the ELBO."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from worldmodel.nets import ImageDecoder, SquaredError, VectorDecoder
from worldmodel.objectives import Context
from worldmodel.types import Losses, Metrics


class Reconstruction(nn.Module):
    """Unit-variance Gaussian log-likelihood of pixels and vector, up to a constant; losses (B,T)."""

    def __init__(
        self,
        image: tuple[int, int, int] | None,
        vector: int | None,
        feat: int,
        cnn: list[int],
        patch: int,
        units: int,
    ):
        super().__init__()
        self.image = ImageDecoder(feat, image[:2], cnn, patch) if image else None
        self.vector = VectorDecoder(feat, vector, units) if vector else None

    @property
    def loss_names(self) -> list[str]:
        return [name for name in ("image", "vector") if getattr(self, name) is not None]

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        losses = {}
        if self.image:
            mean = self.image(ctx.feat.flatten(0, 1))
            assert ctx.backdrop is not None
            error = SquaredError.apply(mean, ctx.backdrop.take_out(ctx.batch["image"]).flatten(0, 1))
            losses["image"] = error.unflatten(0, ctx.feat.shape[:2])
        if self.vector:
            losses["vector"] = self.vector.loss(ctx.feat, ctx.batch["vector"])
        return losses, {}

    def decode(self, feat: Tensor) -> Tensor:
        """Mean pictures (B,T,H,W,3) of features (B,T,F), without their backdrop."""
        assert self.image is not None
        return self.image(rearrange(feat, "b t f -> (b t) f")).unflatten(0, feat.shape[:2])
