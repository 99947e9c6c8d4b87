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

from worldmodel.policy.local_models import LinearModels, symmetrize
from worldmodel.policy.quadratic_cost import QuadraticCost

ETAS = 1e-6, 1e6  # between these the multiplier is sought
BISECTIONS = 20


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
class Trajectories:
    """The Gaussian over states (C,T+1,n), and over actions (C,T,A), that controllers lead to."""

    mean: Tensor
    cov: Tensor
    action_mean: Tensor
    action_cov: Tensor

    def expect_cost(self, cost: QuadraticCost) -> Tensor:
        """The expected cost (C,)."""
        spread = (cost.form[:-1, :-1] * self.cov[:, 1:]).sum((1, 2, 3))
        effort = cost.control * self.action_cov.diagonal(dim1=-2, dim2=-1)
        return cost.measure(self.mean, self.action_mean) + spread + effort.sum((1, 2))


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
    """The controllers that minimise E[cost / eta - log old(u|x)] less their entropy; eta (C,).

    All functions are quadratic forms of z = (x, 1) and (z, u), halved.
    """
    count, steps, actions, size = old.gain.shape
    moves = join_models(models)
    goal = (2 * cost.form / eta[:, None, None]).unsqueeze(1)
    unit = torch.eye(actions, dtype=eta.dtype, device=eta.device).expand(count, steps, -1, -1)
    # u - K x - k of (z, u)
    apart = torch.cat([-old.gain, -old.offset.unsqueeze(-1), unit], -1)
    here = apart.mT @ torch.linalg.inv(old.cov) @ apart
    here[..., size + 1 :, size + 1 :] += 2 * cost.control * unit / eta[:, None, None, None]
    value = torch.zeros_like(goal[:, 0])
    gains, covs = [], []
    for t in reversed(range(steps)):
        form = moves[:, t].mT @ (goal[:, 0] + value) @ moves[:, t] + here[:, t]
        cov = torch.linalg.inv(form[:, size + 1 :, size + 1 :])
        gain = -cov @ form[:, size + 1 :, : size + 1]
        value = symmetrize(
            form[:, : size + 1, : size + 1] + form[:, : size + 1, size + 1 :] @ gain
        )
        gains.append(gain)
        covs.append(cov)
    gain, cov = (torch.stack(part[::-1], 1) for part in (gains, covs))
    return Controllers(gain[..., :-1], gain[..., -1], symmetrize(cov))


def join_models(models: LinearModels) -> Tensor:
    """The matrices (C,T,n+1,n+1+A) that lead from (x, 1, u) to (x', 1)."""
    top = torch.cat([models.matrix, models.offset.unsqueeze(-1), models.gain], -1)
    last = torch.zeros_like(top[..., :1, :])
    last[..., models.matrix.shape[-1]] = 1.0
    return torch.cat([top, last], -2)


def predict_trajectories(
    models: LinearModels,
    controllers: Controllers,
    mean: Tensor,
    cov: Tensor,
    box: float = math.inf,
) -> Trajectories:
    """Where controllers lead on average from first states (C,n), and how states spread.

    A spread (C,T+1,n,n) is that of the rollouts that the models are fitted to; from one of the
    first states alone (C,n,n) the models propagate it. Actions reach as far as the box.
    """
    if cov.dim() == 3:
        cov = propagate_spread(models, controllers, cov)
    moves, gain = join_models(models), controllers.gain
    feedback = torch.cat([gain, controllers.offset.unsqueeze(-1)], -1)
    states = [torch.nn.functional.pad(mean, (0, 1), value=1.0).unsqueeze(-1)]
    actions = []
    for t in range(gain.shape[1]):
        actions.append((feedback[:, t] @ states[-1]).clamp(-box, box))
        states.append(moves[:, t] @ torch.cat([states[-1], actions[-1]], 1))
    action_cov = controllers.cov + gain @ cov[:, :-1] @ gain.mT
    path = torch.stack(states, 1)[..., :-1, 0]
    return Trajectories(path, cov, torch.stack(actions, 1).squeeze(-1), action_cov)


def propagate_spread(models: LinearModels, controllers: Controllers, cov: Tensor) -> Tensor:
    """The covariances (C,T+1,n,n) of states after first ones of (C,n,n), without the box.

    S' = (A + B K) S (A + B K)' + B C B' + Q
    """
    moves = models.matrix + models.gain @ controllers.gain
    fresh = models.gain @ controllers.cov @ models.gain.mT + models.noise
    covs = [cov]
    for t in range(moves.shape[1]):
        covs.append(symmetrize(moves[:, t] @ covs[-1] @ moves[:, t].mT + fresh[:, t]))
    return torch.stack(covs, 1)


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
    box: float = math.inf,
) -> tuple[Controllers, Trajectories, Tensor]:
    """The best controllers whose KL from the old ones is within the bound (C,), and where they
    lead from a start: the mean of first states (C,n), and the spread of states (C,T+1,n,n) or of
    first ones (C,n,n).

    Returns what the old ones are expected to cost (C,) too.
    """
    low, high = (torch.full_like(bound, eta).log() for eta in ETAS)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        new = solve_lqr(models, cost, old, middle.exp())
        kl = measure_kl(new, old, predict_trajectories(models, new, *start, box))
        within = kl <= bound  # false where it is not finite
        low, high = torch.where(within, low, middle), torch.where(within, middle, high)
        if ((high - low) < 2e-2).all():
            break
    new = solve_lqr(models, cost, old, high.exp())
    before, after = (predict_trajectories(models, c, *start, box) for c in (old, new))
    return new, after, before.expect_cost(cost)


def recentre_controllers(controllers: Controllers, path: Trajectories) -> Controllers:
    """Move offsets so that mean actions along a path lie where the box has them, not beyond.

    Otherwise noise would not show what less of an action does.
    """
    feedback = controllers.gain @ path.mean[:, :-1].unsqueeze(-1)
    offset = path.action_mean - feedback.squeeze(-1)
    return Controllers(controllers.gain, offset, controllers.cov)


def adapt_bounds(
    bounds: Tensor, actual: Tensor, predicted: Tensor, limits: tuple[float, float]
) -> Tensor:
    """The next KL bounds (C,), from the improvements (C,) that came about and were predicted."""
    share = actual / predicted.clamp(min=1e-6)
    factor = torch.where(share > 0.5, 2.0, torch.where(share > 0.2, 1.0, 0.7))
    factor = torch.where(actual > 0, factor, 0.4)
    return (bounds * factor).clamp(*limits)
