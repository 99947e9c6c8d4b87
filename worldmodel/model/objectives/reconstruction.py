"""Reconstruct the observations: the likelihood term of the ELBO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import torch
from einops import rearrange
from torch import Tensor, nn

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

    Pictures are the expensive part: only a `share` of the T steps is decoded, at random steps each
    time or `even`ly spaced ones, the same for every picture.
    """

    def __init__(self, settings: Settings, spec: ModelSpec, even: bool = False):
        super().__init__()
        self.share, self.even = settings.pictures, even
        self.decoders = nn.ModuleDict()
        for name, shape in spec.obs.pictures.items():
            self.decoders[name] = ImageDecoder(spec.feat, shape, spec.cnn, spec.patch)
        for name, size in spec.obs.vectors.items():
            self.decoders[name] = VectorDecoder(spec.feat, size, spec.units)
        self.pictures = {name: name_loss("image", name) for name in spec.obs.pictures}
        self.vectors = {name: name_loss("vector", name) for name in spec.obs.vectors}
        self.loss_names = [*self.pictures.values(), *self.vectors.values()]

    @property
    def can_draw(self) -> bool:
        return bool(self.pictures)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        losses = self._picture_losses(ctx) if self.pictures else {}
        for name, loss in self.vectors.items():
            decoder = cast(VectorDecoder, self.decoders[name])
            losses[loss] = decoder.loss(ctx.feat, ctx.batch[name])
        return losses, {}

    def _picture_losses(self, ctx: Context) -> Losses:
        batch, length = ctx.feat.shape[:2]
        count = max(1, round(length * self.share))
        if count == length:
            return {loss: self._picture_error(ctx, name) for name, loss in self.pictures.items()}
        picks = self._pick_steps(count, length, ctx.feat.device)
        losses = {}
        for name, loss in self.pictures.items():
            error = self._picture_error(ctx, name, picks) * (length / count)
            losses[loss] = error.new_zeros(batch, length).index_copy(1, picks, error)
        return losses

    def _picture_error(self, ctx: Context, name: str, picks: Tensor | None = None) -> Tensor:
        """Half the squared error (B,T) of one picture, at the steps `picks` if given."""
        feat, picture = ctx.feat, ctx.batch[name]
        if picks is not None:
            feat, picture = feat[:, picks], picture[:, picks]
        decoded = self.decoders[name](feat.flatten(0, 1))
        error = ctx.mean_images[name].error(decoded, picture.flatten(0, 1))
        return error.unflatten(0, feat.shape[:2])

    def _pick_steps(self, count: int, length: int, device: torch.device) -> Tensor:
        """The steps to decode."""
        if self.even:
            return torch.arange(count, device=device) * length // count
        return torch.randperm(length, device=device)[:count]

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        flat = rearrange(feat, "b t f -> (b t) f")
        return {k: self.decoders[k](flat).unflatten(0, feat.shape[:2]) for k in self.pictures}

    def decode_vectors(self, feat: Tensor) -> dict[str, Tensor]:
        return {k: cast(VectorDecoder, self.decoders[k]).mean(feat) for k in self.vectors}

    def list_picture_decoders(self) -> dict[str, nn.Module]:
        return {name: self.decoders[name] for name in self.pictures}


def name_loss(kind: str, name: str) -> str:
    """`image` and `vector` by themselves, any other observation below its kind."""
    return kind if name == kind else f"{kind}/{name}"
