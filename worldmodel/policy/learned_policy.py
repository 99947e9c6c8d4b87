"""A learned policy: what is trained beside the model to act, to score plans or to propose them.

Which one a configuration trains is a fact of the behavior's `Settings`; build.py makes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from worldmodel.policy.action_distributions import Dist, clip_actions
from worldmodel.spaces import Batch, Metrics, Row, State, count_states, map_state

Rate = Literal["actor", "critic"]  # whose learning rate of section optim a part has


class LearnedPolicy(nn.Module):
    """The protocol of all learned policies; the world model is an argument, never a part."""

    every = 1  # updates of the model per update of the policy
    greedy = True  # whether evaluation takes the mode of the actor's distribution
    has_critic = True  # whether it has a `value`

    def list_parts(self) -> dict[str, tuple[nn.Module, Rate]]:
        """The parts that learn by name, each with the name of its learning rate.

        The gradients of each part are clipped together.
        """
        raise NotImplementedError

    def begin_update(self, frames: int) -> Hashable:
        """Prepare an update after so many frames; the result differs between updates that run
        different operations.
        """
        return ()

    def losses(
        self, model, batch: Batch, post: State, feat: Tensor
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Scalar losses and metrics from the posteriors (B,T,...) of a batch and their features
        (B,T,F), which keep their graph.
        """
        raise NotImplementedError

    def after_update(self) -> None:
        """Update what follows the weights, once they have moved."""

    def list_columns(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and types of the columns that `watch` adds to the rows of the replay."""
        return {}

    def watch(self, model, rows: list[Row], carry: Mapping[str, Tensor]) -> None:
        """See the rows of a step of all environments, before they are stored.

        The carry (B,...) is what the behavior keeps, now that it has acted on them; it is empty
        while actions are random.
        """

    def choose(self, feat: Tensor) -> Dist:
        """The distribution over actions (...,A) at features (...,F)."""
        raise NotImplementedError

    def value(self, feat: Tensor) -> Tensor:
        """The value (...) of the states at features (...,F)."""
        raise NotImplementedError

    @torch.no_grad()
    def propose_plans(
        self, model, state: State, count: int, horizon: int, generator: torch.Generator | None
    ) -> Tensor:
        """Action sequences (B,count,H,A) that the policy takes in imagination from states
        (B,...).
        """
        batch = count_states(state)
        starts = map_state(state, lambda v: v.repeat_interleave(count, 0))
        rollout = model.dynamics.start_rollout(starts, horizon, generator)
        actions = []
        for _ in range(horizon):
            actions.append(clip_actions(self.choose(rollout.features).sample(generator)))
            rollout.step(actions[-1])
        return torch.stack(actions, 1).unflatten(0, (batch, count))


def subtract_disagreement(
    model, reward: Tensor, start: Tensor, after: Tensor, action: Tensor, pessimism: float
) -> Tensor:
    """Rewards (H,N) less `pessimism` times the ensemble's disagreement about where each action
    leads.

    Features are those at the start of rollouts (N,F) and (H,N,F) after actions (H,N,A).
    """
    if not pessimism:
        return reward
    return reward - pessimism * model.measure_rollout_disagreement(start, after, action)


def pick_starts(is_terminal: Tensor, most: int) -> Tensor:
    """Flat indices (N,) of the states (B,T) to imagine from: `most` at random, or all if 0."""
    count = is_terminal.numel()
    if not most or most >= count:
        return torch.arange(count, device=is_terminal.device)
    return torch.randperm(count, device=is_terminal.device)[:most]
