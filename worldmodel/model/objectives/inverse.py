"""Inverse and forward model together: keep what the agent controls (Agrawal et al. 2016; Pathak et
al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.ranges import Count, Weight, Width
from worldmodel.model.multi_step import Average
from worldmodel.model.networks import MLP, Fp32Linear
from worldmodel.model.objectives import Context, DistanceObjective, Mean, ModelSpec
from worldmodel.model.objectives.centre import Centre
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    measures_distance = True

    distances: list[Count]
    size: Width
    forward: Weight
    target: Literal["grad", "stop"]

    def explain_no_distance(self) -> str | None:
        """Why the objective with these settings can measure no distance, if so."""
        if self.forward == 0:
            return "learnt by inverse needs its forward model; inverse.forward is 0"
        return None


class Inverse(DistanceObjective):
    """Predicts a_t from (z_t, z_{t+d}, d), and z_{t+d} from features imagined d steps ahead of t,
    d = 0 included.

    z = norm(P embedding - mean) depends on the picture alone: the latent already has the action,
    through the transition, and would reveal it. What z learns by the inverse model, the latent has
    to hold and to predict for the forward model. The norm keeps z from shrinking, which would
    lower the forward loss.
    """

    loss_names = ["inverse", "inverse_forward"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.space, self.settings = spec.space, settings
        size = settings.size
        self.see = Fp32Linear(spec.embed, size)
        self.centre = Centre(size)
        self.guess = MLP(2 * size + len(settings.distances), spec.space.size, 1, spec.units)
        self.predict = MLP(spec.feat, size, 1, spec.units)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        seen = self._normalise(self.centre(self.see(ctx.embed)))
        back, known = self._predict_actions(ctx, seen)
        forth = Average(ctx.batch["is_first"])
        for d, feat, unbroken in ctx.imagine_ahead([0, *self.settings.distances]):
            aim = seen.detach() if self.settings.target == "stop" else seen
            forth.add(d, 0.5 * (self.predict(feat) - aim[:, d:]).square().sum(-1), unbroken)
        return {"inverse": back, "inverse_forward": self.settings.forward * forth.mean()}, {
            "inverse/known": known
        }

    def _predict_actions(self, ctx: Context, seen: Tensor) -> tuple[Tensor, Tensor]:
        """-log likelihood (B,T) of the first action between two steps, and the share predicted
        right.
        """
        action, length = ctx.batch["prev_action"], seen.shape[1]
        loss, hits = Average(ctx.batch["is_first"]), Average(ctx.batch["is_first"])
        codes = torch.eye(len(self.settings.distances), device=seen.device)
        for code, (d, _, unbroken) in zip(
            codes, ctx.imagine_ahead(self.settings.distances), strict=True
        ):
            pair = [seen[:, : length - d], seen[:, d:], code.expand(*unbroken.shape, -1)]
            read, done = self.guess(torch.cat(pair, -1)), action[:, 1 : length - d + 1]
            loss.add(d, self._action_loss(read, done), unbroken)
            hits.add(d, self._score_predictions(read, done), unbroken)
        return loss.mean(), hits.total.sum() / hits.count.sum().clamp(min=1)

    def _normalise(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.settings.size,), eps=1e-5)

    def after_update(self, mean: Mean) -> None:
        self.centre.after_update(mean)

    def _action_loss(self, read: Tensor, action: Tensor) -> Tensor:
        """-log likelihood (...,): a category per group, or a Gaussian of unit variance up
        to a constant.
        """
        if not self.space.discrete:
            return 0.5 * (read - action).square().sum(-1)
        return -torch.stack(
            [(a * r.log_softmax(-1)).sum(-1) for r, a in self._split_groups(read, action)]
        ).sum(0)

    def _score_predictions(self, read: Tensor, action: Tensor) -> Tensor:
        """Share of groups predicted right, or of numbers whose sign was."""
        if not self.space.discrete:
            return ((read > 0) == (action > 0)).float().mean(-1)
        hits = [
            (r.argmax(-1) == a.argmax(-1)).float() for r, a in self._split_groups(read, action)
        ]
        return torch.stack(hits).mean(0)

    def _split_groups(self, read: Tensor, action: Tensor) -> list[tuple[Tensor, Tensor]]:
        sizes = list(self.space.groups)
        return list(zip(read.split(sizes, -1), action.split(sizes, -1), strict=True))

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        return (
            (self.predict(feat) - self._normalise(self.centre.subtract_last_mean(self.see(embed))))
            .square()
            .sum(-1)
        )
