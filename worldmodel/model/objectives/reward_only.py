"""Nothing but reward and continuation, read off dreams as well (as in MuZero, Schrittwieser et al.
2020).
"""

from __future__ import annotations

from worldmodel.config.schema_objectives import RewardOnlyConfig
from worldmodel.model.multi_step import Average
from worldmodel.model.objectives import Context, Objective
from worldmodel.spaces import Losses, Metrics


class RewardOnly(Objective):
    """The heads' losses on features dreamt some steps on with the real actions; the picture is
    asked for nothing.
    """

    loss_names = ["dreamt_reward", "dreamt_cont"]

    def __init__(self, config: RewardOnlyConfig):
        super().__init__()
        self.config = config

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        batch, parts = ctx.batch, ctx.parts
        reward, cont = Average(batch["is_first"]), Average(batch["is_first"])
        for d, feat, unbroken in ctx.ahead(self.config.distances):
            reward.add(d, parts.reward.loss(feat, batch["reward"][:, d:]), unbroken)
            cont.add(d, parts.cont.loss(feat, 1.0 - batch["is_terminal"][:, d:].float()), unbroken)
        return {"dreamt_reward": reward.mean(), "dreamt_cont": cont.mean()}, {}
