"""Ensembles: several predictions of the next latent, whose spread measures what the model does not
know (Sekar et al. 2020, Plan2Explore).

K one-step heads read features and actions without their graph, so that they teach the model
nothing. Head k predicts the mean of the next step's posterior:

    L_k = 1/2 |m_k(feat_t, a_t) - E[z_{t+1}]|^2      disagreement = mean over S of the std over k

Heads differ by their first weights and, with `ensemble.bootstrap`, by the rows that they learn
from. With `ensemble.dropout` they are one network, seen through K dropout masks that never change
(Gal et al. 2016: a mask is a sample of the network).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.config.schema import EnsembleConfig
from worldmodel.model.member_networks import MemberMLP
from worldmodel.spaces import Batch, Losses, Metrics

RESAMPLES = "resamples"  # how often each row of a batch counts for each member, (B,T,K)


def measure_disagreement(members: Tensor) -> Tensor:
    """The std over members of their predictions (K,...,S), averaged over S: (...)."""
    variance = (members - members.mean(0)).square().mean(0)
    # Ten times as fast as `std`; the bound keeps the gradient of the root finite.
    return variance.clamp(min=1e-20).sqrt().mean(-1)


class OneStepHeads(nn.Module):
    """The members' predictions of the next latent's mean, and the loss that trains them."""

    def __init__(self, feat: int, actions: int, latent: int, e: EnsembleConfig):
        super().__init__()
        self.dropout, self.bootstrap = e.dropout, e.bootstrap
        networks = 1 if e.dropout else e.size
        self.net = MemberMLP(networks, feat + actions, latent, e.layers, e.units)
        self.masks: Tensor | None
        masks = _draw_masks((e.size, 1, e.units), e.dropout) if e.dropout else None
        self.register_buffer("masks", masks)

    def predict(self, feat: Tensor, action: Tensor) -> Tensor:
        """Features (...,F) and actions (...,A) to the next latent's mean by each member:
        (K,...,S).
        """
        return self._run(feat, action, self.masks)

    def loss(self, batch: Batch, feat: Tensor, target: Tensor) -> tuple[Losses, Metrics]:
        """The members' squared errors, summed, of features (B,T,F) and latents' means (B,T,S):
        (B,T).

        Entry t belongs to the prediction of step t; an episode's first step is predicted by
        nothing.
        """
        before, action = feat[:, :-1].detach(), batch["prev_action"][:, 1:]
        masks = None
        if self.dropout:
            shape = (1, before[..., 0].numel(), self.net.out.weight.shape[1])
            masks = _draw_masks(shape, self.dropout, feat.device)
        members = self._run(before, action, masks)  # (K,B,T-1,S)
        error = 0.5 * (members - target[:, 1:].detach().float()).square().sum(-1)
        if self.bootstrap:
            error = error * batch[RESAMPLES][:, 1:].movedim(-1, 0)
        valid = ~batch["is_first"][:, 1:].bool()
        shown = measure_disagreement(members.detach())
        return (
            {"ensemble": F.pad(error.sum(0) * valid, (1, 0))},
            {"disagreement": (shown * valid).sum() / valid.sum().clamp(min=1)},
        )

    def _run(self, feat: Tensor, action: Tensor, masks: Tensor | None) -> Tensor:
        """The members' outputs (K,...,S), in fp32: their differences are small."""
        x = torch.cat([feat, action.to(feat.dtype)], -1).float()
        count = self.net.members if masks is None else len(masks)
        rows = x.reshape(-1, x.shape[-1]).expand(count, -1, -1)
        with torch.autocast(x.device.type, enabled=False):
            found = self.net(rows) if masks is None else self.net.run_masked(rows, masks)
        return found.view(count, *x.shape[:-1], -1)


def _draw_masks(
    shape: tuple[int, ...], dropout: float, device: torch.device | None = None
) -> Tensor:
    """Dropout masks: zero with probability `dropout`, otherwise what keeps the mean at one."""
    return (torch.rand(shape, device=device) >= dropout).float() / (1 - dropout)
