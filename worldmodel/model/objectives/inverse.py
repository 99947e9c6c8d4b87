"""Inverse and forward model together: keep what the agent controls (Agrawal et al. 2016; Pathak et
al. 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.schema_objectives import InverseConfig
from worldmodel.model.multi_step import Average
from worldmodel.model.networks import MLP, Exact
from worldmodel.model.objectives import Comparing, Context, Mean
from worldmodel.model.objectives.centre import Centre
from worldmodel.spaces import ActionSpace, Losses, Metrics


class Inverse(Comparing):
    """a_t from (z_t, z_{t+d}, d), and z from the features of the same step and from those dreamt d
    steps on.

    z = norm(P embedding - mean) is the picture's alone: a latent has been told the action by the
    transition, and would give it away. What z learns by the inverse model, the latent has to hold
    and to predict for the forward model. The norm keeps z from shrinking, which would please the
    forward model.
    """

    loss_names = ["inverse", "inverse_forward"]

    def __init__(
        self, feat: int, embed: int, space: ActionSpace, units: int, config: InverseConfig
    ):
        super().__init__()
        self.space, self.config = space, config
        self.see = Exact(embed, config.size)
        self.centre = Centre(config.size)
        self.guess = MLP(2 * config.size + len(config.distances), space.size, 1, units)
        self.predict = MLP(feat, config.size, 1, units)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        seen = self._normed(self.centre(self.see(ctx.embed)))
        back, known = self._backwards(ctx, seen)
        forth = Average(ctx.batch["is_first"])
        for d, feat, unbroken in ctx.ahead([0, *self.config.distances]):
            aim = seen.detach() if self.config.target == "stop" else seen
            forth.add(d, 0.5 * (self.predict(feat) - aim[:, d:]).square().sum(-1), unbroken)
        return {"inverse": back, "inverse_forward": self.config.forward * forth.mean()}, {
            "inverse/known": known
        }

    def _backwards(self, ctx: Context, seen: Tensor) -> tuple[Tensor, Tensor]:
        """-log likelihood (B,T) of the action done first, and the share of actions
        guessed right.
        """
        action, length = ctx.batch["prev_action"], seen.shape[1]
        loss, hits = Average(ctx.batch["is_first"]), Average(ctx.batch["is_first"])
        codes = torch.eye(len(self.config.distances), device=seen.device)
        for code, (d, _, unbroken) in zip(codes, ctx.ahead(self.config.distances), strict=True):
            pair = [seen[:, : length - d], seen[:, d:], code.expand(*unbroken.shape, -1)]
            read, done = self.guess(torch.cat(pair, -1)), action[:, 1 : length - d + 1]
            loss.add(d, self._loss(read, done), unbroken)
            hits.add(d, self._hits(read, done), unbroken)
        return loss.mean(), hits.total.sum() / hits.count.sum().clamp(min=1)

    def _normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.config.size,), eps=1e-5)

    def after_update(self, mean: Mean) -> None:
        self.centre.after_update(mean)

    def _loss(self, read: Tensor, action: Tensor) -> Tensor:
        """-log likelihood (...,): a category per group, or a Gaussian of unit variance up
        to a constant.
        """
        if not self.space.discrete:
            return 0.5 * (read - action).square().sum(-1)
        return -torch.stack(
            [(a * r.log_softmax(-1)).sum(-1) for r, a in self._groups(read, action)]
        ).sum(0)

    def _hits(self, read: Tensor, action: Tensor) -> Tensor:
        """Share of groups guessed right, or of numbers whose sign was."""
        if not self.space.discrete:
            return ((read > 0) == (action > 0)).float().mean(-1)
        hits = [(r.argmax(-1) == a.argmax(-1)).float() for r, a in self._groups(read, action)]
        return torch.stack(hits).mean(0)

    def _groups(self, read: Tensor, action: Tensor) -> list[tuple[Tensor, Tensor]]:
        sizes = list(self.space.groups)
        return list(zip(read.split(sizes, -1), action.split(sizes, -1), strict=True))

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        return (
            (self.predict(feat) - self._normed(self.centre.alone(self.see(embed))))
            .square()
            .sum(-1)
        )
