"""The start states of replayed sequences: empty, after burn-in steps, or stored by the agent.

`prepare` puts the state before the first step into the batch's `start_*` entries. Without them a
sequence starts from the empty state.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.spaces import Batch, Metrics, Row, State, add_prefix, map_state, select_prefix

NO_STATE = -1  # the `before_update` of a row that has no stored state


class ZeroStart:
    """Sequences start from the empty state."""

    lead = 0  # extra steps to sample before those that are trained on

    def spec(self, state: State) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the spec of the extra replay columns; `state` has leaves (B,...)."""
        return {}

    def add_state(self, rows: list[Row], state: State, update: int) -> None:
        """Add the extra columns to the rows: the states (B,...) before them."""

    def prepare(self, model: WorldModel, batch: Batch, update: Tensor) -> tuple[Batch, Metrics]:
        return batch, {}


class BurnInStart(ZeroStart):
    """Sequences start from the state after `lead` steps, observed without gradients."""

    def __init__(self, lead: int):
        self.lead = lead

    @torch.no_grad()
    def prepare(self, model: WorldModel, batch: Batch, update: Tensor) -> tuple[Batch, Metrics]:
        post = model.observe({k: v[:, : self.lead] for k, v in batch.items()})[1]
        rest = {k: v[:, self.lead :] for k, v in batch.items()}
        return rest | add_prefix(map_state(post, lambda v: v[:, -1]), "start_"), {}


class StoredStart(ZeroStart):
    """Sequences start from the state that the acting agent had, stored in half precision.

    After `max_stale` updates a stored state counts as unknown, and the sequence starts empty.
    """

    def __init__(self, max_stale: int):
        self.max_stale = max_stale

    def spec(self, state: State) -> dict[str, tuple[tuple[int, ...], str]]:
        columns = {f"before_{k}": (tuple(v.shape[1:]), "float16") for k, v in state.items()}
        return {**columns, "before_update": ((), "int32")}

    def add_state(self, rows: list[Row], state: State, update: int) -> None:
        kept = {
            f"before_{k}": v.float().cpu().numpy().astype(np.float16) for k, v in state.items()
        }
        for i, row in enumerate(rows):
            row.update({k: v[i] for k, v in kept.items()}, before_update=np.int32(update))

    def prepare(self, model: WorldModel, batch: Batch, update: Tensor) -> tuple[Batch, Metrics]:
        stamp = batch["before_update"][:, 0]
        known = (stamp != NO_STATE) & (update - stamp <= self.max_stale)
        rest = {k: v for k, v in batch.items() if not k.startswith("before_")}
        rest["is_first"] = batch["is_first"].clone()
        rest["is_first"][:, 0] |= ~known
        kept = {k: v for k, v in batch.items() if k != "before_update"}
        start = map_state(select_prefix(kept, "before_"), lambda v: v[:, 0].float())
        start = add_prefix(start, "start_")
        return rest | start, {"warm": known.float().mean()}
