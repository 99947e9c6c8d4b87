"""Whether a representation has collapsed: how far it spreads, and over how many directions."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.spaces import Metrics

ROWS = 256  # steps of a batch that are measured, at most


@torch.no_grad()
def measure_spread(name: str, x: Tensor) -> Metrics:
    """Of vectors (B,T,D): mean standard deviation, and effective rank (sum l)^2 / sum l^2 of the
    covariance's spectrum.

    The rank is 1 on a line, D where all directions vary alike, and 0 where nothing varies.
    """
    rows = x.float().flatten(0, 1)
    rows = rows[:: -(-len(rows) // ROWS)]
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows - rows.mean(0)
        # The products' spectra are equal but for zeros: take the smaller.
        gram = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T
    trace, square = gram.diagonal().sum(), gram.square().sum()
    std = rows.square().mean(0).sqrt().mean()
    return {f"{name}/std": std, f"{name}/rank": trace.square() / square.clamp(min=1e-12)}
