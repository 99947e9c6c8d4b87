"""The contrastive forward model: a dreamt next latent must find the picture that came (Yan et al.
2020).
"""

from __future__ import annotations

from torch import Tensor

from worldmodel.config.schema_objectives import ForwardContrastiveConfig
from worldmodel.model.networks import Exact
from worldmodel.model.objectives import Comparing, Context
from worldmodel.model.objectives.pairs import contest
from worldmodel.spaces import Losses, Metrics


class ForwardContrastive(Comparing):
    """-log h(f(z_t, a_t), z_{t+1}) / sum_j h(f(z_t, a_t), z_j).

    h is exp(-|z1 - z2|^2) or exp(z1'z2).

    z = g(picture) is read off the embedding, f(z_t, a_t) off the features that the transition
    dreams one step on.
    """

    loss_names = ["forward_contrastive"]

    def __init__(self, feat: int, embed: int, config: ForwardContrastiveConfig):
        super().__init__()
        self.config, self.needs_slow = config, config.target == "ema"
        self.predict = Exact(feat, config.size)
        self.see = Exact(embed, config.size)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        seen = self.see(ctx.aim(self.config.target))
        loss, metrics = contest(
            ctx, [1], self.config.negatives, self.predict, seen, self._similarity
        )
        return {"forward_contrastive": loss}, {
            f"forward_contrastive/{k}": v for k, v in metrics.items()
        }

    def _similarity(self, predicted: Tensor, seen: Tensor) -> Tensor:
        dot = predicted @ seen.T
        if self.config.similarity == "dot":
            return dot
        return 2 * dot - predicted.square().sum(-1, keepdim=True) - seen.square().sum(-1)

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        predicted, seen = self.predict(feat), self.see(embed)
        if self.config.similarity == "dot":
            return -(predicted * seen).sum(-1)
        return (predicted - seen).square().sum(-1)
