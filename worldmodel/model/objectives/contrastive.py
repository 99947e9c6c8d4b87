"""InfoNCE between latent features and embeddings (van den Oord et al. 2018); with distances above
0, CPC.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.schema_objectives import ContrastiveConfig
from worldmodel.model.networks import Exact
from worldmodel.model.objectives import Comparing, Context
from worldmodel.model.objectives.pairs import contest
from worldmodel.spaces import Losses, Metrics


class Contrastive(Comparing):
    """Features c choose their embedding z among the batch's by c'Wz / temperature, or by the
    cosine of projections.

    W = Q'K has at most rank `size`. CPC's step-wise W_k are dreams here: c of d steps later is
    dreamt with the actions that were done, so that the transition learns from it too.
    """

    loss_names = ["contrastive"]

    def __init__(self, feat: int, embed: int, config: ContrastiveConfig):
        super().__init__()
        self.config, self.needs_slow = config, config.target == "ema"
        self.query = Exact(feat, config.size, bias=False)
        self.key = Exact(embed, config.size, bias=False)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        c = self.config
        keys = self.key(ctx.aim(c.target))
        loss, metrics = contest(ctx, c.distances, c.negatives, self.query, keys, self._similarity)
        return {"contrastive": loss}, {f"contrastive/{k}": v for k, v in metrics.items()}

    def _similarity(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self._scaled(queries) @ self._scaled(keys).T / self.config.temperature

    def _scaled(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.config.form == "cosine" else x

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        queries, keys = self._scaled(self.query(feat)), self._scaled(self.key(embed))
        return -(queries * keys).sum(-1) / self.config.temperature
