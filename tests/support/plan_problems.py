"""Scores of plans as plain functions, with what some planners ask of a score beside numbers."""

import torch

from worldmodel.model.derivatives import compute_hessian, compute_jacobian


class Smooth:
    """A differentiable function of plans, (B,N,H,A) -> (B,N), its gradient, and the problem of
    control that it is.
    """

    def __init__(self, function, batch=None, size=None):
        self.function, self.batch, self.size = function, batch, size

    def __call__(self, plans):
        return self.function(plans)

    def score_with_gradient(self, plans):
        with torch.enable_grad():
            plans = plans.detach().requires_grad_()
            scores = self(plans)
            return scores.detach(), torch.autograd.grad(scores.sum(), plans)[0]

    def make_problem(self, horizon, control, copies=1):
        start = torch.zeros(copies * self.batch, horizon * self.size, dtype=torch.float64)
        return WholePlan(self.function, start, horizon, control)


class Problem:
    """A problem of control from functions of rows [state, action], (...,B,n+A), and the step."""

    def __init__(self, start, horizon):
        self.start, self.horizon = start, horizon

    def advance(self, rows):
        """The next states (...,B,n)."""
        raise NotImplementedError

    def measure(self, rows, last, time):
        """The costs (...,B) of step `time`, and whether it is the last; both (H,1) for all steps
        (H,B,n+A).
        """
        raise NotImplementedError

    def step(self, states, actions, time):
        rows = torch.cat([states, actions], -1)
        time = torch.tensor(time)
        return self.advance(rows), self.measure(rows, time == self.horizon - 1, time)

    def linearize(self, states, actions):
        found = compute_jacobian(self.advance, torch.cat([states, actions], -1))
        return found[..., : states.shape[-1]], found[..., states.shape[-1] :]

    def expand_cost(self, states, actions):
        rows = torch.cat([states, actions], -1)
        time = torch.arange(len(rows))[:, None]
        last = time == self.horizon - 1
        return compute_hessian(lambda r: self.measure(r, last, time), rows)


class WholePlan(Problem):
    """Minus any score of whole plans: the state is the last H actions, the last step costs all."""

    def __init__(self, function, start, horizon, control):
        super().__init__(start, horizon)
        self.function, self.control = function, control
        self.size = start.shape[-1] // horizon

    def advance(self, rows):
        return rows[..., self.size :]

    def measure(self, rows, last, time):
        cost = self.control * rows[..., -self.size :].square().sum(-1)
        if not last.any():
            return cost
        plans = self.advance(rows).unflatten(-1, (self.horizon, self.size))
        plans = plans.movedim(-3, 0)  # (B,...,H,A)
        flat = plans.reshape(len(plans), -1, self.horizon, self.size)
        scores = self.function(flat).view(plans.shape[:-2])
        return cost - torch.where(last, scores.movedim(0, -1), 0.0)
