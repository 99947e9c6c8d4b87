"""The contrastive forward model: an imagined next latent must identify the next picture (Yan et
al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from worldmodel.config.ranges import Negatives, Target, Width
from worldmodel.model.networks import Fp32Linear
from worldmodel.model.objectives import Context, DistanceObjective, ModelSpec
from worldmodel.model.objectives.pairs import compute_info_nce
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    measures_distance = True

    similarity: Literal["distance", "dot"]
    size: Width
    negatives: Negatives
    target: Target


class ForwardContrastive(DistanceObjective):
    """-log h(f(z_t, a_t), z_{t+1}) / sum_j h(f(z_t, a_t), z_j).

    h is exp(-|z1 - z2|^2) or exp(z1'z2).

    z = g(picture) is a projection of the embedding, f(z_t, a_t) one of the features that the
    transition imagines one step ahead.
    """

    loss_names = ["forward_contrastive"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings, self.needs_slow = settings, settings.target == "ema"
        self.predict = Fp32Linear(spec.feat, settings.size)
        self.see = Fp32Linear(spec.embed, settings.size)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        seen = self.see(ctx.select_target(self.settings.target))
        loss, metrics = compute_info_nce(
            ctx, [1], self.settings.negatives, self.predict, seen, self._similarity
        )
        return {"forward_contrastive": loss}, {
            f"forward_contrastive/{k}": v for k, v in metrics.items()
        }

    def _similarity(self, predicted: Tensor, seen: Tensor) -> Tensor:
        dot = predicted @ seen.T
        if self.settings.similarity == "dot":
            return dot
        return 2 * dot - predicted.square().sum(-1, keepdim=True) - seen.square().sum(-1)

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        predicted, seen = self.predict(feat), self.see(embed)
        if self.settings.similarity == "dot":
            return -(predicted * seen).sum(-1)
        return (predicted - seen).square().sum(-1)
