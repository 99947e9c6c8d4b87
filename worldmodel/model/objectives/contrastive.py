"""InfoNCE between latent features and embeddings (van den Oord et al. 2018); with distances above
0, CPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.ranges import Natural, Negatives, Positive, Target, Width
from worldmodel.model.networks import Fp32Linear
from worldmodel.model.objectives import Context, DistanceObjective, ModelSpec
from worldmodel.model.objectives.pairs import compute_info_nce
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    measures_distance = True

    form: Literal["bilinear", "cosine"]
    size: Width
    temperature: Positive
    distances: list[Natural]
    negatives: Negatives
    target: Target


class Contrastive(DistanceObjective):
    """Features c identify their embedding z among the batch's by c'Wz / temperature, or by the
    cosine of projections.

    W = Q'K has at most rank `size`. CPC has a matrix W_d for each distance d. Here features are
    imagined d steps ahead with the actions taken instead, which also trains the transition.
    """

    loss_names = ["contrastive"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings, self.needs_slow = settings, settings.target == "ema"
        self.query = Fp32Linear(spec.feat, settings.size, bias=False)
        self.key = Fp32Linear(spec.embed, settings.size, bias=False)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        settings = self.settings
        keys = self.key(ctx.select_target(settings.target))
        loss, metrics = compute_info_nce(
            ctx, settings.distances, settings.negatives, self.query, keys, self._similarity
        )
        return {"contrastive": loss}, {f"contrastive/{k}": v for k, v in metrics.items()}

    def _similarity(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self._scale(queries) @ self._scale(keys).T / self.settings.temperature

    def _scale(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.settings.form == "cosine" else x

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        queries, keys = self._scale(self.query(feat)), self._scale(self.key(embed))
        return -(queries * keys).sum(-1) / self.settings.temperature
