"""Reconstruct what was seen: the likelihood term of the ELBO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor

from worldmodel.config.ranges import Range
from worldmodel.model.networks import ImageDecoder, VectorDecoder
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    section = "loss"

    pictures: Annotated[float, Range(1e-3, 1)]


class Reconstruction(Objective):
    """Unit-variance Gaussian log-likelihood of pixels and vector, up to a constant; losses (B,T).

    Pictures are the dear part: `share` of the T steps stand for all of them, drawn anew each time,
    or `even`ly spaced.
    """

    def __init__(self, settings: Settings, spec: ModelSpec, even: bool = False):
        super().__init__()
        self.share, self.even = settings.pictures, even
        image, vector = spec.obs.image, spec.obs.vector
        self.image = ImageDecoder(spec.feat, image[:2], spec.cnn, spec.patch) if image else None
        self.vector = VectorDecoder(spec.feat, vector, spec.units) if vector else None
        self.loss_names = [name for name in ("image", "vector") if getattr(self, name) is not None]

    @property
    def draws(self) -> bool:
        return self.image is not None

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        losses = {}
        if self.image:
            losses["image"] = self._image_loss(ctx)
        if self.vector:
            losses["vector"] = self.vector.loss(ctx.feat, ctx.batch["vector"])
        return losses, {}

    def _image_loss(self, ctx: Context) -> Tensor:
        assert self.image is not None and ctx.backdrop is not None
        feat, image = ctx.feat, ctx.batch["image"]
        batch, length = feat.shape[:2]
        count = max(1, round(length * self.share))
        if count < length:
            picks = self._picks(count, length, feat.device)
            feat, image = feat[:, picks], image[:, picks]
        error = ctx.backdrop.error(self.image(feat.flatten(0, 1)), image.flatten(0, 1))
        error = error.unflatten(0, (batch, count))
        if count == length:
            return error
        return error.new_zeros(batch, length).index_copy(1, picks, error * (length / count))

    def _picks(self, count: int, length: int, device: torch.device) -> Tensor:
        """Which of the steps are drawn."""
        if self.even:
            return torch.arange(count, device=device) * length // count
        return torch.randperm(length, device=device)[:count]

    def decode(self, feat: Tensor) -> Tensor:
        assert self.image is not None
        return self.image(rearrange(feat, "b t f -> (b t) f")).unflatten(0, feat.shape[:2])
