"""A plan score as a problem of optimal control: a cost for each step along the mean rollout.

x' = f(x, u)   the mean features after a step, without a draw
l(x, u, t)     minus what the score gives for that step, plus the price of the action

States, costs and derivatives are float64; networks run in fp32, without autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model.derivatives import compute_hessian, estimate_hessian
from worldmodel.model.world_model import WorldModel
from worldmodel.spaces import State


class ModelProblem:
    """The problem of a model from states (B,...), each so many times; a subclass says what a step
    costs.
    """

    def __init__(
        self, model: WorldModel, state: State, horizon: int, control: float, copies: int = 1
    ):
        self.model, self.horizon, self.control = model, horizon, control
        self.dynamics = model.dynamics
        with torch.autocast(next(iter(state.values())).device.type, enabled=False):
            start = self.dynamics.features(state).detach().double()
        self.start = start.repeat(copies, 1)
        self.features = self.start.shape[-1]

    def step(self, states: Tensor, actions: Tensor, time: int | Tensor) -> tuple[Tensor, Tensor]:
        """The states (...,B,n) after a step, and its costs (...,B).

        Of steps (H,...,B) at once, `time` holds the numbers (H,1).
        """
        with torch.autocast(states.device.type, enabled=False):
            after, cost = self.advance(states, actions, time)
        return after.double(), cost.double() + self.control * actions.square().sum(-1)

    def advance(
        self, states: Tensor, actions: Tensor, time: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """`step` without the price of the action."""
        raise NotImplementedError

    def linearize(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives (H,B,n,n) and (H,B,n,A) of the next states by states and actions."""
        with torch.autocast(states.device.type, enabled=False):
            by_state, by_action, _ = self.dynamics.linearize(*self.narrow(states, actions))
        return by_state.double(), by_action.double()

    def expand_cost(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient (H,B,n+A) and the Hessian (H,B,n+A,n+A) of the costs of steps (H,B)."""
        size, time = states.shape[-1], self.list_times(states)

        def measure(rows: Tensor) -> Tensor:
            return self.step(rows[..., :size], rows[..., size:], time)[1]

        rows = torch.cat([states, actions], -1)
        if self.dynamics.differentiable:
            return compute_hessian(measure, rows)
        moving = [*self.dynamics.smooth_features, *range(self.features, rows.shape[-1])]
        return estimate_hessian(measure, rows, moving)

    def list_times(self, states: Tensor) -> Tensor:
        """The numbers (H,1) of the steps from states (H,B,n)."""
        return torch.arange(len(states), device=states.device).unsqueeze(-1)

    def narrow(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Parts in the precision of the model's networks."""
        return tuple(p.float() for p in parts) if self.dynamics.differentiable else parts
