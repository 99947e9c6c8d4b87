"""Contrastive prediction of latents by the transition itself, without a decoder (Shu et al. 2020,
PC3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from worldmodel.config.ranges import Negatives, Weight
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.model.objectives.pairs import mask_candidates
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    negatives: Negatives
    consistency: Weight

    def contradictions(self, c: Any) -> list[str]:
        if c.model.dynamics == "linear_gaussian":
            return [
                "transition_contrastive: the latents of model.dynamics linear_gaussian are "
                "inferred from what follows them too; take locally_linear"
            ]
        if c.ensemble.size > 1 and c.ensemble.of == "dynamics":
            return [
                "transition_contrastive: an ensemble of transitions has several predictions of "
                "each latent; take ensemble.of heads"
            ]
        return []


class TransitionContrastive(Objective):
    """-log p(z_t | z_{t-1}, a_t) / sum_j p(z_t | z_{j-1}, a_j), over the pasts j of the batch.

    p is the prior and z_t a sample of the posterior. Beside it stands `consistency` times
    -log p(z_t | z_{t-1}, a_t).
    """

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings = settings
        self.loss_names = ["transition_contrastive"]
        self.loss_names += ["transition_consistency"] * (settings.consistency > 0)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        first = ctx.batch["is_first"].bool()
        batch, length = first.shape
        # What led to a sequence's first step is not in the batch.
        leads_here = F.pad(~first[:, 1:], (1, 0), value=False)
        right = torch.arange(batch * length, device=first.device)
        mask = mask_candidates(self.settings.negatives, batch, length, first.device)
        mask &= leads_here.flatten() | (right[:, None] == right)
        with torch.autocast(first.device.type, enabled=False):
            logs = ctx.parts.dynamics.tabulate_log_probs(ctx.post, ctx.prior)
        logits = logs.masked_fill(~mask, -torch.inf)
        found = {"transition_contrastive": F.cross_entropy(logits, right, reduction="none")}
        if self.settings.consistency:
            found["transition_consistency"] = -self.settings.consistency * logs.diagonal()
        losses = {k: v.view(batch, length) * leads_here for k, v in found.items()}
        hits = (logits.argmax(1) == right).view(batch, length) & leads_here
        accuracy = hits.sum() / leads_here.sum().clamp(min=1)
        return losses, {"transition_contrastive/accuracy": accuracy}
