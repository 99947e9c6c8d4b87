"""An information bottleneck: the reward's likelihood on a budget of nats about the picture (Zhu et
al. 2023, RePo).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.config.ranges import Positive, Share
from worldmodel.model.objectives import Context, Mean, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics, map_state

# Of beta. Without a bound, a long wait for a first reward would make it so low that it would take
# long to rise again.
LEAST = 1e-6


@dataclass(frozen=True)
class Settings:
    nats: Positive
    beta: Positive
    rate: Share


class Bottleneck(Objective):
    """beta * KL(posterior || sg(prior)), beta rising while the KL is above `nats` and falling
    while below.

    It replaces `rep`. The prior is still trained by the loss `dyn`, whose weight does not depend
    on beta.
    """

    loss_names = ["bottleneck"]
    replaces = ("rep",)

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings = settings
        self.log_beta: Tensor
        self.register_buffer("log_beta", torch.tensor(settings.beta).log())
        self._kl: Tensor | None = None

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        kl = ctx.parts.dynamics.kl(ctx.post, map_state(ctx.prior, Tensor.detach))
        self._kl = kl.detach().mean()
        beta = self.log_beta.exp()
        return {"bottleneck": beta * kl}, {"bottleneck/beta": beta}

    @torch.no_grad()
    def after_update(self, mean: Mean) -> None:
        """One step of the dual: log beta moves by `rate` times the KL's relative excess over the
        budget, at most by `rate`.
        """
        assert self._kl is not None
        self.log_beta += self.settings.rate * (mean(self._kl) / self.settings.nats - 1).clamp(
            -1, 1
        )
        self.log_beta.clamp_(min=math.log(LEAST))
