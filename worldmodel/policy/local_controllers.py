"""Local controllers: LQR on linear models of each time step, within a KL bound of its old self.

u_t ~ N(K_t x_t + k_t, C_t)                        a controller p
min_p  E_p[sum_t cost(x_t, u_t)]   subject to   sum_t E_p[KL(p(u|x_t) || old(u|x_t))] <= bound

At the multiplier eta of the bound this is LQR with the costs cost / eta - log old(u|x), whose
controller of maximum entropy has C_t = Q_uu^-1 (Levine and Koltun 2013, Levine and Abbeel 2014).
The KL falls as eta grows, so that bisection finds eta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.policy.local_models import LinearModels

ETAS = 1e-6, 1e12  # between these the multiplier is sought
BISECTIONS = 25


@dataclass(frozen=True)
class Controllers:
    """K (C,T,A,n), k (C,T,A) and C (C,T,A,A) of C controllers, one for each condition."""

    gain: Tensor
    offset: Tensor
    cov: Tensor

    def find_means(self, state: Tensor) -> Tensor:
        """K x + k (C,T,A) of states (C,T,n)."""
        return (self.gain @ state.unsqueeze(-1)).squeeze(-1) + self.offset


@dataclass(frozen=True)
class QuadraticCost:
    """sum_i w_i (x_i - g_i)^2 of the state after each step, and control |u|^2 of its action."""

    weights: Tensor  # w (n,)
    target: Tensor  # g (n,)
    control: float

    def measure(self, states: Tensor, actions: Tensor) -> Tensor:
        """The cost (...) of rollouts (...,T+1,n) and (...,T,A)."""
        gaps = self.weights * (states[..., 1:, :] - self.target).square()
        return gaps.sum((-2, -1)) + self.control * actions.square().sum((-2, -1))


@dataclass(frozen=True)
class Trajectories:
    """The Gaussian over states (C,T+1,n), and over actions (C,T,A), that controllers lead to."""

    mean: Tensor
    cov: Tensor
    action_mean: Tensor
    action_cov: Tensor

    def expect_cost(self, cost: QuadraticCost) -> Tensor:
        """The expected cost (C,)."""
        spread = cost.weights * self.cov[:, 1:].diagonal(dim1=-2, dim2=-1)
        effort = cost.control * self.action_cov.diagonal(dim1=-2, dim2=-1)
        return cost.measure(self.mean, self.action_mean) + spread.sum((1, 2)) + effort.sum((1, 2))


def make_controllers(count: int, steps: int, size: int, actions: int, std: float) -> Controllers:
    """Controllers that know nothing: no action on average, with a standard deviation."""
    wide = torch.float64
    cov = std**2 * torch.eye(actions, dtype=wide).expand(count, steps, actions, actions)
    offset = torch.zeros(count, steps, actions, dtype=wide)
    gain = torch.zeros(count, steps, actions, size, dtype=wide)
    return Controllers(gain, offset, cov.clone())


def solve_lqr(
    models: LinearModels, cost: QuadraticCost, old: Controllers, eta: Tensor
) -> Controllers:
    """The controllers that minimise E[cost / eta - log old(u|x)] less their entropy; eta (C,)."""
    count, steps, actions, size = old.gain.shape
    scale = eta[:, None, None]
    state_cost = 2 * cost.weights.diag() / scale
    slope = (-2 * cost.weights * cost.target).unsqueeze(-1) / scale
    effort = 2 * cost.control * torch.eye(actions).to(old.gain) / scale
    precision = torch.linalg.inv(old.cov)
    value, linear = torch.zeros(count, size, size).to(old.gain), torch.zeros_like(slope)
    gains, offsets, covs = [], [], []
    for t in reversed(range(steps)):
        a, b, c = models.matrix[:, t], models.gain[:, t], models.offset[:, t].unsqueeze(-1)
        p, g, g0 = precision[:, t], old.gain[:, t], old.offset[:, t].unsqueeze(-1)
        ahead = state_cost + value
        push = ahead @ c + slope + linear
        q_uu = effort + b.mT @ ahead @ b + p
        q_ux = b.mT @ ahead @ a - p @ g
        q_u = b.mT @ push - p @ g0
        q_xx = a.mT @ ahead @ a + g.mT @ p @ g
        q_x = a.mT @ push + g.mT @ p @ g0
        cov = torch.linalg.inv(q_uu)
        gain, offset = -cov @ q_ux, -cov @ q_u
        value, linear = symmetrize(q_xx + q_ux.mT @ gain), q_x + q_ux.mT @ offset
        gains.append(gain)
        offsets.append(offset.squeeze(-1))
        covs.append(symmetrize(cov))
    return Controllers(*(torch.stack(part[::-1], 1) for part in (gains, offsets, covs)))


def hold_controllers(controllers: Controllers, hold: int) -> Controllers:
    """The controllers whose last `hold` steps all act by the first of them."""
    parts = controllers.gain, controllers.offset, controllers.cov
    return Controllers(*(hold_steps(part, hold) for part in parts))


def hold_steps(steps: Tensor, hold: int) -> Tensor:
    """(C,T,...) with the last `hold` steps like the first of them."""
    if hold < 2:
        return steps
    first = steps[:, -hold : 1 - hold]
    return torch.cat([steps[:, :-hold], first.expand(-1, hold, *first.shape[2:])], 1)


def predict_trajectories(
    models: LinearModels,
    controllers: Controllers,
    mean: Tensor,
    cov: Tensor,
    box: float = math.inf,
) -> Trajectories:
    """Where controllers lead on average from first states (C,n), and how states spread.

    The spread (C,T+1,n,n) is that of the rollouts that the models are fitted to. Actions reach as
    far as the box.
    """
    means, actions = [mean], []
    for t in range(controllers.gain.shape[1]):
        state = means[-1].unsqueeze(-1)
        action = controllers.gain[:, t] @ state + controllers.offset[:, t].unsqueeze(-1)
        action = action.clamp(-box, box)
        ahead = models.matrix[:, t] @ state + models.gain[:, t] @ action
        means.append(ahead.squeeze(-1) + models.offset[:, t])
        actions.append(action.squeeze(-1))
    gain = controllers.gain
    action_cov = controllers.cov + gain @ cov[:, :-1] @ gain.mT
    return Trajectories(torch.stack(means, 1), cov, torch.stack(actions, 1), action_cov)


def measure_kl(new: Controllers, old: Controllers, path: Trajectories) -> Tensor:
    """sum_t E[KL(new(u|x_t) || old(u|x_t))] (C,) over the states that the new controllers see."""
    precision = torch.linalg.inv(old.cov)
    turn = new.gain - old.gain
    shift = turn @ path.mean[:, :-1].unsqueeze(-1) + (new.offset - old.offset).unsqueeze(-1)
    apart = shift @ shift.mT + turn @ path.cov[:, :-1] @ turn.mT + new.cov
    trace = (precision @ apart).diagonal(dim1=-2, dim2=-1).sum(-1)
    volumes = old.cov.logdet() - new.cov.logdet()
    return 0.5 * (trace - new.cov.shape[-1] + volumes).sum(1)


def improve_controllers(
    models: LinearModels,
    cost: QuadraticCost,
    old: Controllers,
    start: tuple[Tensor, Tensor],
    bound: Tensor,
    hold: int = 1,
    box: float = math.inf,
) -> tuple[Controllers, Trajectories, Tensor]:
    """The best controllers whose KL from the old ones is within the bound (C,), where they lead
    from starts (mean (C,n), cov (C,n,n)), and eta (C,).
    """
    low, high = (torch.full_like(bound, eta).log() for eta in ETAS)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        new = hold_controllers(solve_lqr(models, cost, old, middle.exp()), hold)
        kl = measure_kl(new, old, predict_trajectories(models, new, *start, box))
        within = kl <= bound  # false where it is not finite
        low, high = torch.where(within, low, middle), torch.where(within, middle, high)
        if ((high - low) < 1e-2).all():
            break
    new = hold_controllers(solve_lqr(models, cost, old, high.exp()), hold)
    return new, predict_trajectories(models, new, *start, box), high.exp()


def symmetrize(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
