"""Iterative LQR with bounded actions (Tassa, Erez and Todorov 2012; Tassa, Mansard and Todorov
2014): the model is linearised and the cost expanded to second order along a plan, the resulting
linear-quadratic problem is solved backwards in time, and a line search takes as much of its
solution as lowers the cost.

With x' = f(x, u), cost l(x, u), and value V of the step after:

Q_x = l_x + f_x' V_x     Q_xx = l_xx + f_x' V_xx f_x
Q_u = l_u + f_u' V_x     Q_ux = l_ux + f_u' V_xx f_x     Q_uu = l_uu + f_u' V_xx f_u
k = argmin 1/2 k' (Q_uu + mu I) k + Q_u' k   with low - u <= k <= high - u
K = -(Q_uu + mu I)^-1 Q_ux in the actions that are free, 0 in those at a bound
V_x = Q_x + K' Q_uu k + K' Q_u + Q_ux' k     V_xx = Q_xx + K' Q_uu K + K' Q_ux + Q_ux' K
u <- clip(u + alpha k + K (x_new - x))

f is the mean step, and an ensemble's is the mean over its members, so that a plan has one rollout
without draws: more of them (`planner.particles`), members that change or stay (TS-1, TS-infinity)
and their variance (`planner.pessimism`) have no place in the problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from worldmodel.config.ranges import Positive, Range, Rounds, Weight
from worldmodel.policy.planners import ControlProblem, HasControlProblem, ScoreFn
from worldmodel.policy.planners.bounded_quadratic import minimize_in_box
from worldmodel.policy.planners.proposals import Box, SeededProposal

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

# Of the regularisation, as published with the method's code
FACTOR, LEAST, MOST = 1.6, 1e-6, 1e10
# A plan is finished if the cost falls by less, relative to its size, or no action would move more
LEAST_GAIN, LEAST_STEP = 1e-10, 1e-9


@dataclass(frozen=True)
class Settings:
    section = "planner"
    needs_continuous = True
    needs_predicted_features = True
    needs_control_problem = True

    iterations: Rounds
    restarts: Annotated[int, Range(0, 1000)]
    reach: Annotated[float, Range(1, 1e6)]
    mu: Weight
    control: Positive

    def contradictions(self, c: Config) -> list[str]:
        if c.planner.proposals:
            return ["planner.proposals: ilqr improves a single plan; use cem, mppi or gradient"]
        return []


@dataclass
class Policy:
    """k (H,B,A), K (H,B,A,n), and for which problems (B,) a Q_uu was not positive definite."""

    feedforward: Tensor
    gains: Tensor
    fails: Tensor


class Regularization:
    """mu of each problem (B,), which grows and shrinks faster each time (Tassa 2012, II-F)."""

    def __init__(self, mu: Tensor):
        self.mu, self.factor = mu, torch.ones_like(mu)

    def grow(self, where: Tensor) -> None:
        factor = (self.factor * FACTOR).clamp(min=FACTOR)
        self.factor = torch.where(where, factor, self.factor)
        self.mu = torch.where(where, (self.mu * factor).clamp(min=LEAST), self.mu)

    def shrink(self, where: Tensor) -> None:
        factor = (self.factor / FACTOR).clamp(max=1 / FACTOR)
        self.factor = torch.where(where, factor, self.factor)
        mu = self.mu * factor
        self.mu = torch.where(where, torch.where(mu > LEAST, mu, 0.0), self.mu)


class ILQR:
    """Improve the search's mean `iterations` times, and `restarts` random plans beside it; the
    cheapest is the plan. Each problem has its own regularisation and its own step. All in float64.

    With a `reach` above 1 the bounds are so many times as wide. Plans are clamped once they are
    improved, and then compared.
    """

    def __init__(self, settings: Settings):
        self.settings = settings

    def __call__(
        self,
        score_fn: ScoreFn,
        mean: Tensor,
        std: Tensor,
        proposal: Box | SeededProposal,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        assert isinstance(score_fn, HasControlProblem), "this score is no control problem"
        restarts, limits = self.settings.restarts, proposal.limits
        wide = limits[0] * self.settings.reach, limits[1] * self.settings.reach
        problem = score_fn.make_problem(mean.shape[1], self.settings.control, 1 + restarts)
        plans = torch.cat([proposal.finish(mean), *draw_plans(mean, restarts, limits, generator)])
        found = self.improve(problem, plans.transpose(0, 1).double(), wide)  # (H,K*B,A)
        found = found.clamp(*limits)
        if restarts:
            found = keep_cheapest(problem, found, len(mean))
        return proposal.finish(found.transpose(0, 1).to(mean.dtype))

    def improve(
        self, problem: ControlProblem, plan: Tensor, limits: tuple[float, float]
    ) -> Tensor:
        """The plan (H,B,A) after `iterations` rounds, or once nothing improves it further."""
        states, costs = roll_out(problem, plan)
        mu = torch.full_like(problem.start[:, 0], self.settings.mu)
        regularization, active = Regularization(mu), torch.ones_like(mu).bool()
        changed = active
        for _ in range(self.settings.iterations):
            if changed.any():
                linear = drop_non_finite(problem.linearize(states[:-1], plan))
                quadratic = drop_non_finite(problem.expand_cost(states[:-1], plan))
            policy, active = solve_with_regularization(
                linear, quadratic, plan, limits, regularization, active
            )
            active = active & (policy.feedforward.abs().amax((0, 2)) > LEAST_STEP)
            if not active.any():
                break
            better = search_step(problem, states, plan, policy, limits)
            gains = costs.sum(0) - better.costs.sum(0)
            changed = accepted = active & (gains > 0)
            regularization.shrink(accepted)
            regularization.grow(active & ~accepted)
            states = torch.where(accepted[:, None], better.states, states)
            plan = torch.where(accepted[:, None], better.plan, plan)
            costs = torch.where(accepted, better.costs, costs)
            small = gains <= LEAST_GAIN * (1 + costs.sum(0).abs())
            active = active & ~(accepted & small) & (regularization.mu <= MOST)
            if not active.any():
                break
        return plan


def draw_plans(
    like: Tensor, count: int, limits: tuple[float, float], generator: torch.Generator | None
) -> list[Tensor]:
    """Random plans of the shape (B,H,A) of one: first those uniform in the box, then those whose
    actions are all at a bound.
    """
    low, high = limits
    draws = torch.rand(count, *like.shape, generator=generator, device=like.device)
    uniform = (count + 1) // 2
    return [
        low + (high - low) * (draw if i < uniform else draw.round())
        for i, draw in enumerate(draws.to(like.dtype))
    ]


def keep_cheapest(problem: ControlProblem, plans: Tensor, batch: int) -> Tensor:
    """Of K plans (H,K*B,A) for each of B problems, the one of least cost: (H,B,A)."""
    costs = roll_out(problem, plans)[1].sum(0).nan_to_num(torch.inf, torch.inf, torch.inf)
    best = costs.view(-1, batch).argmin(0)
    return plans[:, best * batch + torch.arange(batch, device=plans.device)]


@dataclass
class Trajectory:
    """States (H+1,B,n), plan (H,B,A) and costs (H,B)."""

    states: Tensor
    plan: Tensor
    costs: Tensor


def roll_out(problem: ControlProblem, plan: Tensor) -> tuple[Tensor, Tensor]:
    """States (H+1,B,n) and costs (H,B) of a plan (H,B,A)."""
    states, costs = [problem.start], []
    for time, actions in enumerate(plan):
        after, cost = problem.step(states[-1], actions, time)
        states.append(after)
        costs.append(cost)
    return torch.stack(states), torch.stack(costs)


def solve_with_regularization(
    linear: tuple[Tensor, Tensor],
    quadratic: tuple[Tensor, Tensor],
    plan: Tensor,
    limits: tuple[float, float],
    regularization: Regularization,
    active: Tensor,
) -> tuple[Policy, Tensor]:
    """The policy, with as much regularisation as each problem needs; those that would need too
    much are no longer active.
    """
    while True:
        policy = solve_backwards(linear, quadratic, plan, limits, regularization.mu, active)
        failing = active & policy.fails
        if not failing.any():
            return policy, active
        regularization.grow(failing)
        active = active & (regularization.mu <= MOST)


def solve_backwards(
    linear: tuple[Tensor, Tensor],
    quadratic: tuple[Tensor, Tensor],
    plan: Tensor,
    limits: tuple[float, float],
    mu: Tensor,
    active: Tensor,
) -> Policy:
    """The policy of the linear-quadratic problem: f_x (H,B,n,n) and f_u (H,B,n,A), gradient
    (H,B,n+A) and Hessian (H,B,n+A,n+A) of the costs. It ends early if all active ones fail.
    """
    horizon, batch, size = plan.shape
    slopes, n = torch.cat(linear, -1), linear[0].shape[-1]
    gradients, hessians = quadratic
    v_x, v_xx = plan.new_zeros(batch, n), plan.new_zeros(batch, n, n)
    k, eye = plan.new_zeros(batch, size), torch.eye(size, dtype=plan.dtype, device=plan.device)
    fails, steps, gains = torch.zeros_like(mu).bool(), [], []
    for t in range(horizon - 1, -1, -1):
        # All of Q_x and Q_u, and all second derivatives of Q, side by side
        first = gradients[t] + multiply(slopes[t].mT, v_x)
        second = hessians[t] + slopes[t].mT @ v_xx @ slopes[t]
        q_x, q_u = first[:, :n], first[:, n:]
        q_xx, q_ux, q_uu = second[:, :n, :n], second[:, n:, :n], second[:, n:, n:]
        bounds = limits[0] - plan[t], limits[1] - plan[t]
        solved = minimize_in_box(q_uu + mu[:, None, None] * eye, q_u, *bounds, start=k)
        k, fails = solved.x, fails | solved.fails
        if (fails | ~active).all():
            return Policy(torch.zeros_like(plan), plan.new_zeros(*plan.shape, n), fails)
        gain = -solved.divide(q_ux)
        steps.append(k)
        gains.append(gain)
        v_x = q_x + multiply(gain.mT, multiply(q_uu, k) + q_u) + multiply(q_ux.mT, k)
        v_xx = q_xx + gain.mT @ (q_uu @ gain + q_ux) + q_ux.mT @ gain
        v_xx = 0.5 * (v_xx + v_xx.mT)
    return Policy(torch.stack(steps[::-1]), torch.stack(gains[::-1]), fails)


def drop_non_finite(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Derivatives, 0 where they are not finite."""
    return pair[0].nan_to_num(0.0, 0.0, 0.0), pair[1].nan_to_num(0.0, 0.0, 0.0)


def multiply(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B,m,n) times (B,n): (B,m)."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def search_step(
    problem: ControlProblem,
    states: Tensor,
    plan: Tensor,
    policy: Policy,
    limits: tuple[float, float],
) -> Trajectory:
    """The best of rollouts of the policy with all sizes of step alpha at once."""
    alphas = 10 ** torch.linspace(0, -3, 11, dtype=plan.dtype, device=plan.device)[:, None, None]
    now = problem.start.expand(len(alphas), *problem.start.shape)
    rows, chosen, found = [now], [], []
    for t in range(len(plan)):
        step = alphas * policy.feedforward[t] + multiply_rows(policy.gains[t], now - states[t])
        actions = (plan[t] + step).clamp(*limits)
        now, cost = problem.step(now, actions, t)
        rows.append(now)
        chosen.append(actions)
        found.append(cost)
    every = Trajectory(torch.stack(rows), torch.stack(chosen), torch.stack(found))
    total = every.costs.sum(0).nan_to_num(torch.inf, torch.inf, torch.inf)
    best, batch = total.argmin(0), torch.arange(plan.shape[1], device=plan.device)
    picked = (tensor[:, best, batch] for tensor in (every.states, every.plan, every.costs))
    return Trajectory(*picked)


def multiply_rows(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(B,m,n) times (K,B,n): (K,B,m)."""
    return torch.einsum("bmn,kbn->kbm", matrix, vectors)
