"""InfoNCE between latent features and embeddings (van den Oord et al. 2018); with distances above
0, CPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.ranges import Count, Natural, Negatives, Positive, Target
from worldmodel.model.networks import Exact
from worldmodel.model.objectives import Comparing, Context, ModelSpec
from worldmodel.model.objectives.pairs import contest
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    measures_distance = True

    form: Literal["bilinear", "cosine"]
    size: Count
    temperature: Positive
    distances: list[Natural]
    negatives: Negatives
    target: Target


class Contrastive(Comparing):
    """Features c choose their embedding z among the batch's by c'Wz / temperature, or by the
    cosine of projections.

    W = Q'K has at most rank `size`. CPC's step-wise W_k are dreams here: c of d steps later is
    dreamt with the actions that were done, so that the transition learns from it too.
    """

    loss_names = ["contrastive"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings, self.needs_slow = settings, settings.target == "ema"
        self.query = Exact(spec.feat, settings.size, bias=False)
        self.key = Exact(spec.embed, settings.size, bias=False)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        settings = self.settings
        keys = self.key(ctx.aim(settings.target))
        loss, metrics = contest(
            ctx, settings.distances, settings.negatives, self.query, keys, self._similarity
        )
        return {"contrastive": loss}, {f"contrastive/{k}": v for k, v in metrics.items()}

    def _similarity(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self._scaled(queries) @ self._scaled(keys).T / self.settings.temperature

    def _scaled(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.settings.form == "cosine" else x

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        queries, keys = self._scaled(self.query(feat)), self._scaled(self.key(embed))
        return -(queries * keys).sum(-1) / self.settings.temperature
