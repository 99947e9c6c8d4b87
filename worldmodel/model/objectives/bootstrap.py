"""Predict the slow encoder's embeddings, without negatives (Grill et al. 2020; Guo et al.
2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from worldmodel.config.ranges import Natural
from worldmodel.model.multi_step import Average
from worldmodel.model.networks import MLP
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.model.objectives.centre import subtract_mean
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    distances: list[Natural]


class Bootstrap(Objective):
    """1 - cos(predicted, slow embedding), the prediction from features imagined some steps ahead.

    The batch's mean is subtracted from the embeddings: it is most of each, and a constant would
    predict it.
    """

    loss_names = ["bootstrap"]
    needs_slow = True

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings = settings
        self.predict = MLP(spec.feat, spec.embed, 1, spec.units)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        assert ctx.slow is not None
        target = F.normalize(subtract_mean(ctx.slow.float()), dim=-1)
        mean = Average(ctx.batch["is_first"])
        for distance, feat, unbroken in ctx.imagine_ahead(self.settings.distances):
            predicted = F.normalize(self.predict(feat), dim=-1)
            mean.add(distance, 1 - (predicted * target[:, distance:]).sum(-1), unbroken)
        return {"bootstrap": mean.mean()}, {}
