"""Contests among a batch's embeddings: which one belongs to these features?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.model.multi_step import Average
from worldmodel.model.objectives import Context
from worldmodel.spaces import Metrics


def allowed(negatives: str, batch: int, length: int, device: torch.device) -> Tensor:
    """Which of the N = B*T steps compete with which, (N,N): the right one always stands."""
    step = torch.arange(batch * length, device=device)
    sequence, time = step // length, step % length
    if negatives == "all":
        return torch.ones(len(step), len(step), dtype=torch.bool, device=device)
    free = sequence[:, None] != sequence
    if negatives == "aligned":
        free &= time[:, None] == time
    return free | (step[:, None] == step)


def contest(
    ctx: Context,
    distances: Sequence[int],
    negatives: str,
    query: Callable[[Tensor], Tensor],
    keys: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Metrics]:
    """InfoNCE: -log softmax of the similarity with the right key (B,T,S), averaged over distances:
    (B,T).

    `similarity` takes queries (M,S) and keys (N,S) to (M,N). Also the share of contests won.
    """
    batch, length = keys.shape[:2]
    step = torch.arange(batch * length, device=keys.device).view(batch, length)
    free = allowed(negatives, batch, length, keys.device)
    mean, won = Average(ctx.batch["is_first"]), Average(ctx.batch["is_first"])
    for distance, feat, unbroken in ctx.ahead(distances):
        right = step[:, distance:].flatten()
        with torch.autocast(keys.device.type, enabled=False):
            logits = similarity(query(feat).flatten(0, 1), keys.flatten(0, 1))
        logits = logits.masked_fill(~free[right], -torch.inf)
        loss = F.cross_entropy(logits, right, reduction="none")
        mean.add(distance, loss.view(batch, -1), unbroken)
        won.add(distance, (logits.argmax(1) == right).view(batch, -1), unbroken)
    return mean.mean(), {"accuracy": won.total.sum() / won.count.sum().clamp(min=1)}
