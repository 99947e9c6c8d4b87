"""An agent as a policy for a rollout: it carries its state from row to row, in numpy."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldmodel.policy.agent import Agent
from worldmodel.spaces import Row

log = logging.getLogger(__name__)


class Player:
    """A policy for `Rollout`: rows of B environments in, actions (B,A) out."""

    def __init__(self, agent: Agent, batch: int, mode: str, generator: torch.Generator):
        self.agent, self.mode, self.generator = agent, mode, generator
        self.carry = agent.init(batch)

    def __call__(self, rows: list[Row]) -> np.ndarray:
        keys = [*self.agent.reads, "prev_action", "is_first"]
        obs = {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in keys}
        action, self.carry = self.agent.act(obs, self.carry, self.mode, self.generator)
        return action.numpy()

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.carry, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly; on another kind of device the generator keeps its own fresh state."""
        tensors = dict(state)
        generator = tensors.pop("generator")
        if generator.shape == self.generator.get_state().shape:
            self.generator.set_state(generator)
        else:
            log.warning(
                "resumed on another kind of device: exploration continues with other random "
                "numbers"
            )
        self.carry = {k: v.clone().to(self.agent.device) for k, v in tensors.items()}
