"""Weights of the world model's losses that are learnt with it (HarmonyDream, Ma et al. 2024).

Each group i of losses, with sum L_i, has a number s_i:

    sum_i exp(-s_i) L_i + log(1 + exp(s_i))

A large loss makes its own weight small: at the optimum exp(-s_i) L_i lies below one, whatever the
size of the rewards or the number of pixels. The groups are the rewards, what is observed, and the
KL terms. Other losses keep their weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REWARD = ("reward", "imagined_reward")
KL = ("dyn", "rep", "overshoot", "corrective")
# Continuations, regularisers, and what has a price of its own or may be negative
APART = {"cont", "imagined_cont", "ensemble", "smooth", "bottleneck", "curvature"}
APART |= {"decorrelation", "straightening", "transition_consistency"}


def find_group(loss: str) -> str | None:
    """The group that a loss belongs to; None if its weight stays."""
    if loss in APART:
        return None
    if loss in KL:
        return "kl"
    return "reward" if loss in REWARD else "observed"


class LossBalance(nn.Module):
    def __init__(self, losses: Iterable[str]):
        super().__init__()
        self.groups = {loss: group for loss in losses if (group := find_group(loss)) is not None}
        self.logs = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in sorted({*self.groups.values()})}
        )

    def weigh(self, loss: str) -> Tensor | float:
        """exp(-s) of a loss's group; 1 for a loss that keeps its weight."""
        group = self.groups.get(loss)
        return 1.0 if group is None else (-self.logs[group]).exp()

    def penalty(self) -> Tensor:
        """What keeps the weights from falling to zero: the sum of log(1 + exp(s))."""
        return F.softplus(torch.stack(list(self.logs.values()))).sum()

    def metrics(self) -> dict[str, Tensor]:
        return {f"weight/{name}": (-log).exp().detach() for name, log in self.logs.items()}
