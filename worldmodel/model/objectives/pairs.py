"""InfoNCE within a batch: which embedding belongs to these features?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.model.multi_step import Average
from worldmodel.model.objectives import Context
from worldmodel.spaces import Metrics


def mask_candidates(negatives: str, batch: int, length: int, device: torch.device) -> Tensor:
    """Which of the N = B*T steps are candidates for which, (N,N); the right one always is."""
    step = torch.arange(batch * length, device=device)
    sequence, time = step // length, step % length
    if negatives == "all":
        return torch.ones(len(step), len(step), dtype=torch.bool, device=device)
    mask = sequence[:, None] != sequence
    if negatives == "aligned":
        mask &= time[:, None] == time
    return mask | (step[:, None] == step)


def compute_info_nce(
    ctx: Context,
    distances: Sequence[int],
    negatives: str,
    query: Callable[[Tensor], Tensor],
    keys: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Metrics]:
    """InfoNCE: -log softmax of the similarity with the right one of keys (B,T,S), averaged over
    distances: (B,T).

    `similarity` takes queries (M,S) and keys (N,S) to (M,N). Returns the accuracy as well.
    """
    batch, length = keys.shape[:2]
    step = torch.arange(batch * length, device=keys.device).view(batch, length)
    mask = mask_candidates(negatives, batch, length, keys.device)
    mean, hits = Average(ctx.batch["is_first"]), Average(ctx.batch["is_first"])
    for distance, feat, unbroken in ctx.imagine_ahead(distances):
        right = step[:, distance:].flatten()
        with torch.autocast(keys.device.type, enabled=False):
            logits = similarity(query(feat).flatten(0, 1), keys.flatten(0, 1))
        logits = logits.masked_fill(~mask[right], -torch.inf)
        loss = F.cross_entropy(logits, right, reduction="none")
        mean.add(distance, loss.view(batch, -1), unbroken)
        hits.add(distance, (logits.argmax(1) == right).view(batch, -1), unbroken)
    return mean.mean(), {"accuracy": hits.total.sum() / hits.count.sum().clamp(min=1)}
