"""The agent: a filter over observations and a behaviour on top, the same in training and
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodel.model.world_model import WorldModel
from worldmodel.spaces import ActionSpace, Columns, State, add_prefix, map_state, select_prefix
from worldmodel.system.runtime import autocast

Carry = dict[str, Tensor]


class Agent:
    """`act(obs, carry)` for a batch of environments.

    The carry is flat: `state/*` the filtered latent, `behavior/*` what the behaviour keeps,
    `prev_action`.
    """

    def __init__(
        self,
        model: WorldModel,
        behavior,
        space: ActionSpace,
        *,
        device: torch.device,
        precision: str,
    ):
        self.model, self.behavior, self.space = model, behavior, space
        self.device, self.precision = device, precision

    @property
    def reads_unseen(self) -> bool:
        """Whether the behavior reads what the model does not see; it is among its carry then."""
        return getattr(self.behavior, "reads_unseen", False)

    @property
    def reads(self) -> list[str]:
        """The names of all observations that are read."""
        return [*self.model.observation, *(self.model.unseen if self.reads_unseen else ())]

    def __repr__(self) -> str:
        parts = f"{type(self.model.dynamics).__name__}, {type(self.behavior).__name__}"
        return f"Agent({parts}, {self.precision} on {self.device})"

    def init(self, batch: int) -> Carry:
        state = add_prefix(self.model.dynamics.initial(batch), "state/")
        own = add_prefix(self.behavior.init(batch), "behavior/")
        return {**state, **own, "prev_action": torch.zeros(batch, self.space.size)}

    @torch.no_grad()
    def act(
        self, obs: dict[str, Tensor], carry: Carry, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """obs: what is seen (B,...) by name, is_first (B,) -> action (B,A), carry."""
        # A single picture is encoded faster in fp32: converting the weights to bf16 would take
        # longer than multiplying by them.
        single = (
            self.device.type == "cpu" and len(obs["is_first"]) == 1 and not self.behavior.plans
        )
        with autocast(self.device, "fp32" if single else self.precision):
            state, is_first = self.filter(obs, carry, generator)
            kept = select_prefix(carry, "behavior/")
            if self.reads_unseen:
                kept |= {k: obs[k].to(self.device) for k in self.model.unseen if k in obs}
            action, kept = self.behavior.act(state, kept, is_first, mode, generator)
        action = action.float()
        carry = add_prefix(state, "state/") | add_prefix(kept, "behavior/")
        return action.cpu(), {**carry, "prev_action": action}

    def filter(
        self, obs: dict[str, Tensor], carry: Carry, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        """Filter an observation: the posterior state, and is_first on the device."""
        is_first = obs["is_first"].to(self.device)
        seen = {k: obs[k].unsqueeze(1).to(self.device) for k in self.model.observation}
        embed = self.model.encode(seen).squeeze(1)
        previous = obs.get("prev_action", carry["prev_action"]).to(self.device)
        state = self.model.dynamics.observe_step(
            select_prefix(carry, "state/"), embed, previous, is_first, generator
        )
        return state, is_first

    def observe_rows(self, rows: Columns, generator: torch.Generator, count: int = 1) -> State:
        """Sample posterior states (K,...) after rows (T,...); the first starts an episode."""
        steps = []
        for t in range(len(rows["prev_action"])):
            obs: dict[str, Tensor] = {
                k: torch.from_numpy(rows[k][t : t + 1]).expand(count, *rows[k].shape[1:])
                for k in (*self.model.observation, "prev_action")
            }
            steps.append({**obs, "is_first": torch.full((count,), t == 0)})
        return self._filter_steps(steps, count, generator)

    def observe_starts(self, starts: Sequence[Columns], generator: torch.Generator) -> State:
        """Sample posterior states (B,...) after the rows (T,...) of B starts, each of any length.

        The first row of each starts an episode.
        """
        counts = [len(rows["prev_action"]) for rows in starts]
        steps = []
        for left in range(max(counts), 0, -1):
            # A shorter start waits at its first row, where each step forgets the one before.
            at = [max(0, count - left) for count in counts]
            obs: dict[str, Tensor] = {
                k: torch.from_numpy(
                    np.stack([rows[k][i] for rows, i in zip(starts, at, strict=True)])
                )
                for k in (*self.model.observation, "prev_action")
            }
            steps.append({**obs, "is_first": torch.tensor([i == 0 for i in at])})
        return self._filter_steps(steps, len(starts), generator)

    @torch.no_grad()
    def find_points(self, columns: Columns) -> dict[str, np.ndarray]:
        """The feature points x, y (T,K,2) in each picture (T,H,W,C) by name, if there are any.

        The vectors that the model sees may be left out: points do not depend on them.
        """
        if not self.model.count_points():
            return {}
        length = len(next(iter(columns.values())))
        batch = {
            k: torch.from_numpy(np.ascontiguousarray(columns[k]))
            if k in columns
            else torch.zeros(length, *shape)
            for k, shape in self.model.observation.items()
        }
        with autocast(self.device, self.precision):
            embed = self.model.encode({k: v[None].to(self.device) for k, v in batch.items()})
        found = self.model.find_points(embed)
        return {name: points[0].float().cpu().numpy() for name, points in found.items()}

    @torch.no_grad()
    def _filter_steps(
        self, steps: Sequence[dict[str, Tensor]], count: int, generator: torch.Generator
    ) -> State:
        """Filter steps of `count` environments, from no memory on."""
        carry = self.init(count)
        state: State = {}
        for obs in steps:
            with autocast(self.device, self.precision):
                state, _ = self.filter(obs, carry, generator)
            carry = {**carry, **add_prefix(state, "state/")}
        return map_state(state, Tensor.float)
