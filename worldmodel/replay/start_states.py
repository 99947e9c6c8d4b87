"""What the model knows where a replayed sequence starts: nothing, the state the acting agent had
there, or some steps.

`prepare` leaves the state before the first step in the batch's `start_*` entries; without them a
sequence starts from nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.spaces import Batch, Metrics, Row, State

NEVER = -1  # the stamp of a row that came without a state


class Cold:
    """From nothing."""

    lead = 0  # steps to sample in front of those that are learnt from

    def spec(self, state: State) -> dict[str, tuple[tuple[int, ...], str]]:
        """What a replay row holds besides experience; `state` has leaves (B,...)."""
        return {}

    def keep(self, rows: list[Row], state: State, update: int) -> None:
        """Put into rows what `spec` lists: the states (B,...) from before them."""

    def prepare(self, model: WorldModel, batch: Batch, update: Tensor) -> tuple[Batch, Metrics]:
        return batch, {}


class BurnIn(Cold):
    """From what today's model makes of some steps before, watched without gradients."""

    def __init__(self, lead: int):
        self.lead = lead

    @torch.no_grad()
    def prepare(self, model: WorldModel, batch: Batch, update: Tensor) -> tuple[Batch, Metrics]:
        post = model.observe({k: v[:, : self.lead] for k, v in batch.items()})[1]
        rest = {k: v[:, self.lead :] for k, v in batch.items()}
        return rest | {f"start_{k}": post[k][:, -1] for k in ("deter", "stoch")}, {}


class Stored(Cold):
    """From the state the acting agent had, kept in half precision; after `max_stale` updates it
    counts as unknown.
    """

    def __init__(self, max_stale: int):
        self.max_stale = max_stale

    def spec(self, state: State) -> dict[str, tuple[tuple[int, ...], str]]:
        columns = {f"before_{k}": (tuple(v.shape[1:]), "float16") for k, v in state.items()}
        return {**columns, "before_update": ((), "int32")}

    def keep(self, rows: list[Row], state: State, update: int) -> None:
        kept = {
            f"before_{k}": v.float().cpu().numpy().astype(np.float16) for k, v in state.items()
        }
        for i, row in enumerate(rows):
            row.update({k: v[i] for k, v in kept.items()}, before_update=np.int32(update))

    def prepare(self, model: WorldModel, batch: Batch, update: Tensor) -> tuple[Batch, Metrics]:
        stamp = batch["before_update"][:, 0]
        known = (stamp != NEVER) & (update - stamp <= self.max_stale)
        rest = {k: v for k, v in batch.items() if not k.startswith("before_")}
        rest["is_first"] = batch["is_first"].clone()
        rest["is_first"][:, 0] |= ~known
        start = {f"start_{k}": batch[f"before_{k}"][:, 0].float() for k in ("deter", "stoch")}
        return rest | start, {"warm": known.float().mean()}
