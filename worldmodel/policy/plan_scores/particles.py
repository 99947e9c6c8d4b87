"""Several imagined rollouts of each plan, and one score of their returns (PETS, section 5).

Rows lie particle by particle: (P*B*N,...). With an ensemble, the first P/K particles belong to
the first member, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.model.dynamics import Dynamics
from worldmodel.spaces import State, count_states, map_state


@dataclass(frozen=True)
class Particles:
    """How many rollouts a plan has, who imagines them, and what their variance costs.

    `count` 0 is one for each member. With `propagation` tsinf a rollout keeps its member; with
    ts1 each step is imagined by another, at random.
    """

    count: int = 0
    propagation: str = "tsinf"
    pessimism: float = 0.0

    def repeat_states(self, dynamics: Dynamics, state: State, plans: int) -> State:
        """The states (B,...) that so many plans of each start from: (P*B*N,...).

        A plan does not know which member imagined its state.
        """
        many = self._count(dynamics)
        state = {k: v for k, v in state.items() if k != "member"}
        start = map_state(state, lambda v: v.repeat_interleave(plans, 0))
        if many == 1:
            return start
        rows = count_states(start)
        start = map_state(start, lambda v: v.repeat(many, *[1] * (v.dim() - 1)))
        device = next(iter(start.values())).device
        if dynamics.members > 1 and self.propagation == "ts1":
            start["redraw"] = torch.ones(many * rows, device=device)
        elif dynamics.members > 1:
            member = torch.arange(dynamics.members, device=device)
            start["member"] = member.repeat_interleave(many // dynamics.members * rows)
        return start

    def repeat_plans(self, dynamics: Dynamics, plans: Tensor) -> Tensor:
        """The plans (M,H,A) once for each particle: (P*M,H,A)."""
        many = self._count(dynamics)
        return plans if many == 1 else plans.repeat(many, 1, 1)

    def combine(self, dynamics: Dynamics, returns: Tensor) -> Tensor:
        """One score (M,) for the returns (P*M,) of a plan: their mean, less so many variances.

        The variance is between members, as the noise of each averages out over its particles.
        Without members to tell apart it is that between particles.
        """
        many = self._count(dynamics)
        if many == 1:
            return returns
        each = returns.view(many, -1)
        mean = each.mean(0)
        if not self.pessimism:
            return mean
        if dynamics.members > 1 and self.propagation == "tsinf":
            each = each.unflatten(0, (dynamics.members, -1)).mean(1)
        return mean - self.pessimism * each.var(0, correction=0)

    def _count(self, dynamics: Dynamics) -> int:
        return self.count or dynamics.members
