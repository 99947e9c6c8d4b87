"""Which state local controllers see: the true vector (guided policy search), or the belief of a
linear-Gaussian latent (SOLAR, Zhang et al. 2019).

                     TrueVector                         LatentBelief
x_t while acting     the vector                         filtered mean E[z_t | o_1..t, a_1..t]
x_t of a rollout     the same                           smoothed mean E[z_t | o_1..T, a_1..T]
cost                 known: distances from a target     the reward head's squared distance
prior of the models  one regression on all steps        A, B, c and Q of the dynamics
a round's cost       that of the rollout without noise  control |u|^2 - reward, mean of rollouts

The latent moves while the model learns. So the observations of the last rollouts are kept, and
their latents are taken anew, under the model as it is, whenever controllers improve. What was
tried in an earlier latent cannot be compared with what is tried now: `compares_rounds` is false,
and controllers are then never given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from worldmodel.policy.local_models import LinearModels, pool_model
from worldmodel.policy.quadratic_cost import QuadraticCost, make_distance_cost
from worldmodel.spaces import Batch, ObservationSpace, Row, State


@dataclass(frozen=True)
class Column:
    """What is kept of each row: under which name, of which shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Rollouts:
    """What is kept of rollouts, of shape `lead`: rows (...,T+1,...) by key, actions (...,T,A).

    The tensors are buffers of `owner`, in whose checkpoints they have names such as new_actions.
    """

    def __init__(
        self,
        owner: nn.Module,
        kind: str,
        columns: Mapping[str, Column],
        lead: tuple[int, ...],
        steps: int,
        actions: int,
    ):
        self.owner = owner
        self.names = {key: f"{kind}_{column.name}" for key, column in columns.items()}
        self.actions_name = f"{kind}_actions"
        for key, column in columns.items():
            zeros = torch.zeros(*lead, steps + 1, *column.shape, dtype=column.dtype)
            owner.register_buffer(self.names[key], zeros)
        zeros = torch.zeros(*lead, steps, actions, dtype=torch.float64)
        owner.register_buffer(self.actions_name, zeros)

    @property
    def rows(self) -> dict[str, Tensor]:
        return {key: getattr(self.owner, name) for key, name in self.names.items()}

    @property
    def actions(self) -> Tensor:
        return getattr(self.owner, self.actions_name)

    def list_tensors(self) -> list[Tensor]:
        return [*self.rows.values(), self.actions]

    def keep_step(self, place: int, step: int, row: Row) -> None:
        """Keep a row of an environment, and the action before it."""
        for name, rows in self.rows.items():
            rows[place, step] = torch.as_tensor(row[name]).to(rows)
        if step:
            self.actions[place, step - 1] = torch.as_tensor(row["prev_action"]).to(self.actions)


class TrueVector:
    """The vector `name` in `model.unseen`, and the cost that section guided gives it."""

    compares_rounds = True

    def __init__(self, name: str, size: int, settings: Any):
        self.name, self.size, self.control = name, size, settings.control
        self.weights, self.target = (
            torch.tensor(v, dtype=torch.float64) for v in (settings.weights, settings.target)
        )
        self.columns = {name: Column("states", (size,), torch.float64)}

    def see(self, model: Any, state: State, unseen: State) -> Tensor | None:
        """x (B,n), or None in imagination, which has none."""
        return unseen.get(self.name)

    def recall(self, model: Any, batch: Batch, post: State) -> Tensor:
        """x (B,T,n) of replayed rows."""
        return batch[self.name]

    def infer(self, model: Any, rollouts: Rollouts) -> Tensor:
        """x (C,N,T+1,n) of the kept rollouts."""
        return rollouts.rows[self.name]

    def find_cost(self, model: Any, states: Tensor) -> QuadraticCost:
        return self._make_cost(states)

    def _make_cost(self, like: Tensor) -> QuadraticCost:
        return make_distance_cost(self.weights.to(like), self.target.to(like), self.control)

    def make_global_model(self, model: Any, states: Tensor, actions: Tensor) -> LinearModels:
        """What the local models have as their prior."""
        return pool_model(states, actions)

    def measure_step(self, row: Row, action: Tensor) -> Tensor:
        """What a row and the action before it cost."""
        state = torch.as_tensor(row[self.name]).to(action)
        return self._make_cost(state).measure(torch.stack([state, state]), action[None])

    def measure_round(self, rollouts: Rollouts) -> Tensor:
        """The cost (C,) by which the controllers of a round are judged."""
        states = rollouts.rows[self.name][:, 0]
        return self._make_cost(states).measure(states, rollouts.actions[:, 0])

    def measure_gaps(self, states: Tensor, cost: QuadraticCost) -> Tensor:
        """How far (N,) states (N,n) are from where controllers hold."""
        return (states - self.target.to(states)).square().sum(-1)


class LatentBelief:
    """The mean of the belief of a linear-Gaussian latent; its cost is the reward head's."""

    compares_rounds = False

    def __init__(self, dynamics: Any, observation: ObservationSpace, settings: Any):
        self.size, self.control = dynamics.feature_size, settings.control
        self.rank = settings.rank
        self.columns = {
            name: Column(
                name, shape, torch.uint8 if name in observation.pictures else torch.float32
            )
            for name, shape in observation.items()
        }
        self.columns["reward"] = Column("reward", (), torch.float32)

    def see(self, model: Any, state: State, unseen: State) -> Tensor | None:
        return model.dynamics.expected_features(state)

    def recall(self, model: Any, batch: Batch, post: State) -> Tensor:
        return model.dynamics.expected_features(post)

    def infer(self, model: Any, rollouts: Rollouts) -> Tensor:
        """Smoothed means under the model as it is now."""
        means = []
        for place, actions in enumerate(rollouts.actions):
            batch: Batch = {name: rows[place] for name, rows in rollouts.rows.items()}
            batch["prev_action"] = pad(actions, (0, 0, 1, 0)).float()
            batch["is_first"] = torch.zeros_like(batch["reward"], dtype=torch.bool)
            _, post, _ = model.observe(batch)
            means.append(model.dynamics.expected_features(post))
        return torch.stack(means).double()

    def find_cost(self, model: Any, states: Tensor) -> QuadraticCost:
        """|W (z_t - g)|^2, fitted to all replayed rewards by the training of the reward head.

        The rewards of the last rollouts alone would not do: they show few starts and goals.
        """
        return QuadraticCost(model.reward.read_cost(self.rank).to(states), self.control)

    def make_global_model(self, model: Any, states: Tensor, actions: Tensor) -> LinearModels:
        return LinearModels(*(part.to(states) for part in model.dynamics.read_model()))

    def measure_step(self, row: Row, action: Tensor) -> Tensor:
        return self.control * action.square().sum() - float(row["reward"])

    def measure_round(self, rollouts: Rollouts) -> Tensor:
        rewards = rollouts.rows["reward"][..., 1:].double().sum(-1)
        effort = self.control * rollouts.actions.square().sum((-2, -1))
        return (effort - rewards).mean(1)

    def measure_gaps(self, states: Tensor, cost: QuadraticCost) -> Tensor:
        return cost.measure_states(states)


ControllerStates = TrueVector | LatentBelief
