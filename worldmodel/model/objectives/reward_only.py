"""Reward and continuation alone, predicted from imagined features too (as in MuZero, Schrittwieser
et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.ranges import Count
from worldmodel.model.multi_step import Average
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    distances: list[Count]


class RewardOnly(Objective):
    """The heads' losses on features imagined some steps ahead with the real actions; pictures are
    not predicted.
    """

    loss_names = ["imagined_reward", "imagined_cont"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings = settings

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        batch, parts = ctx.batch, ctx.parts
        reward, cont = Average(batch["is_first"]), Average(batch["is_first"])
        for d, feat, unbroken in ctx.imagine_ahead(self.settings.distances):
            reward.add(d, parts.reward.loss(feat, batch["reward"][:, d:]), unbroken)
            cont.add(d, parts.cont.loss(feat, 1.0 - batch["is_terminal"][:, d:].float()), unbroken)
        return {"imagined_reward": reward.mean(), "imagined_cont": cont.mean()}, {}
