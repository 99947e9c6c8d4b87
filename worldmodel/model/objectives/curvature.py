"""Dynamics that are nearly linear around each state, as controllers that linearise them need
(Levine et al. 2020, PCC; Shu et al. 2020, PC3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.config.ranges import Positive
from worldmodel.model.multi_step import Average
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    needs_predicted_features = True

    radius: Positive
    detach: bool


class Curvature(Objective):
    """|f(z + e, a + d) - f(z, a) - J (e, d)|^2 with e and d drawn from N(0, radius^2).

    f is the mean of the transition and J its derivative at z and a. Locally linear dynamics put
    their own A and B in the place of J, which learn to be the derivative (PCC's amortised form).
    Discrete actions are not moved.
    """

    loss_names = ["curvature"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings, self.discrete = settings, spec.space.discrete

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        first, action = ctx.batch["is_first"].bool(), ctx.batch["prev_action"][:, 1:].float()
        feat = ctx.feat[:, :-1].float()
        feat = feat.detach() if self.settings.detach else feat
        change = self.settings.radius * torch.randn_like(feat)
        push = self.settings.radius * torch.randn_like(action) * (not self.discrete)
        with torch.autocast(feat.device.type, enabled=False):
            error = self._measure(ctx, feat, action, change, push)
        mean = Average(first)
        mean.add(1, error, ~first[:, 1:])
        return {"curvature": mean.mean()}, {}

    def _measure(
        self, ctx: Context, feat: Tensor, action: Tensor, change: Tensor, push: Tensor
    ) -> Tensor:
        """The squared error (...) of the linearization at features (...,F) and actions (...,A)."""
        dynamics = ctx.parts.dynamics
        moved = dynamics.predict_features(feat + change, action + push)
        linear = dynamics.apply_linearization(feat, action, change, push)
        return (moved - dynamics.predict_features(feat, action) - linear).square().sum(-1)
