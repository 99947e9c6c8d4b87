"""The useful horizon: the steps up to which a model's rollouts are better than a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PATIENCE = 3

Errors = np.ndarray | Sequence[float | None]


def find_useful_horizon(own: Errors, *baselines: Errors) -> int | None:
    """The first of `PATIENCE` steps in a row (from 1) at which a baseline is as accurate, or None.

    All are errors by horizon (H,). A missing one (None or NaN) is never as accurate.
    """
    model, *others = (np.asarray(errors, dtype=float) for errors in (own, *baselines))
    behind = model >= np.fmin.reduce(others)
    wait = min(PATIENCE, len(behind))
    for h in range(len(behind) - wait + 1):
        if behind[h : h + wait].all():
            return h + 1
    return None
