"""Online clusters whose balanced assignments the latent predicts (Caron et al. 2020; Deng et al.
2022, DreamerPro).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.config.ranges import Natural, Positive, Range, Rounds, Width
from worldmodel.model.ema import SlowCopy
from worldmodel.model.objectives import Context, Mean, ModelSpec, Objective
from worldmodel.model.objectives.centre import subtract_mean
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    count: Annotated[int, Range(2, 10**6)]
    size: Width
    temperature: Positive
    sharpness: Positive
    rounds: Rounds
    freeze: Natural


class Prototypes(Objective):
    """Cross-entropy of softmax(cos(x, centres) / temperature) with Sinkhorn's assignment of the
    slow encoder's view.

    In `prototypes` x is a projection of the features, in `prototypes_view` one of the embedding.
    """

    loss_names = ["prototypes", "prototypes_view"]
    needs_slow = True

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings = settings
        self.from_feat = nn.Linear(spec.feat, settings.size)
        self.from_embed = nn.Linear(spec.embed, settings.size)
        self.slow = SlowCopy(self.from_embed, spec.slow_rate)
        self.centres = nn.Parameter(
            F.normalize(torch.randn(settings.count, settings.size), dim=-1)
        )
        self.frozen = settings.freeze > 0

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        assert ctx.slow is not None
        settings, shape = self.settings, ctx.feat.shape[:2]
        centres = self.centres.detach() if self.frozen else self.centres
        centres = F.normalize(centres, dim=-1)
        with torch.no_grad():
            targets = sinkhorn(
                compute_cosines(subtract_mean(self.slow(ctx.slow)), centres) / settings.sharpness,
                settings.rounds,
            )
        losses = {}
        for name, x in (
            ("prototypes", self.from_feat(ctx.feat)),
            ("prototypes_view", self.from_embed(ctx.embed)),
        ):
            logs = (compute_cosines(x, centres) / settings.temperature).log_softmax(-1)
            losses[name] = -(targets * logs).sum(-1).view(shape)
        return losses, {"prototypes/sure": targets.amax(-1).mean()}

    def begin_update(self, update: int) -> int:
        self.frozen = update < self.settings.freeze
        return int(self.frozen)

    def list_adjusted_weights(self) -> list[Tensor]:
        return [self.centres]

    @torch.no_grad()
    def after_update(self, mean: Mean) -> None:
        self.slow.follow(self.from_embed)
        self.centres.copy_(F.normalize(self.centres, dim=-1))


def compute_cosines(x: Tensor, centres: Tensor) -> Tensor:
    """(B,T,S) against unit vectors (K,S): (B*T,K)."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.float().flatten(0, 1), dim=-1) @ centres.T


def sinkhorn(scores: Tensor, rounds: int) -> Tensor:
    """Soft assignments (N,K), rows of sum 1, in which every cluster gets about the same share of
    the rows.
    """
    logs = scores
    for _ in range(rounds):
        logs = logs - logs.logsumexp(0)
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp()
