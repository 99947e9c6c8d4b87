"""Linear models of each time step, fitted to rollouts under a global prior.

x_{t+1} ~ N(A_t x_t + B_t u_t + c_t, Q_t)

A step has few rollouts, so that a global linear model joins their regression (Levine and Abbeel
2014; SOLAR). With z = (x_t, u_t) and y = x_{t+1}, a normal-inverse-Wishart prior on (z, y) counts
as k rollouts more for the mean and v for the covariance. Of N rollouts with mean m and covariance
S the posterior is

mean = (N m + k m0) / (N + k)
cov  = (N S + v S0 + N k / (N + k) (m - m0)(m - m0)') / (N + v)
(A_t B_t) = cov_yz cov_zz^-1,   c_t = mean_y - (A_t B_t) mean_z,   Q_t = cov_yy - (A_t B_t) cov_zy

where m0 and S0 are what the global model says of y at the mean of the z. Without a prior this is
least squares; with infinite weights it is the global model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearModels:
    """A (...,n,n), B (...,n,A), c (...,n) and Q (...,n,n)."""

    matrix: Tensor
    gain: Tensor
    offset: Tensor
    noise: Tensor

    def predict(self, state: Tensor, action: Tensor) -> Tensor:
        """A x + B u + c."""
        moved = self.matrix @ state.unsqueeze(-1) + self.gain @ action.unsqueeze(-1)
        return moved.squeeze(-1) + self.offset


@dataclass(frozen=True)
class Prior:
    """A linear model of one step for all, or of each, and how many rollouts it counts as."""

    model: LinearModels
    spread: Tensor  # (n+A,n+A): the covariance of (x, u) that comes with it
    mean_weight: float  # k
    weight: float  # v


def fit_local_models(
    states: Tensor, actions: Tensor, prior: Prior | None = None, reach: int = 0
) -> LinearModels:
    """Fit a model to each step of rollouts (...,N,T+1,n) and (...,N,T,A): A is (...,T,n,n).

    The covariance of a step is the mean over those at most `reach` steps before and after it, for
    slopes that change slowly; the means are its own.
    """
    size, count = states.shape[-1], states.shape[-3]
    joint = join_steps(states, actions)
    mean = joint.mean(-3)
    cov = average_near(measure_cov(joint - mean.unsqueeze(-3)), reach)
    if prior is not None:
        predicted = prior.model.predict(*mean[..., :-size].split([size, actions.shape[-1]], -1))
        gap = torch.zeros_like(mean)
        gap[..., -size:] = predicted - mean[..., -size:]
        share = find_share(prior.mean_weight, count)
        apart = share * gap.unsqueeze(-1) @ gap.unsqueeze(-2)
        cov = torch.lerp(cov + apart, join_cov(prior), find_share(prior.weight, count))
        mean = mean + share * gap
    return condition_gaussian(mean, cov, size)


def pool_model(states: Tensor, actions: Tensor) -> LinearModels:
    """The global linear model: one regression on all steps of rollouts (...,T+1,n), (...,T,A)."""
    joint = join_steps(states, actions).flatten(0, -2).unsqueeze(-2)  # (N,1,m)
    mean = joint.mean(0)
    return condition_gaussian(mean[0], measure_cov(joint - mean)[0], states.shape[-1])


def measure_spread(states: Tensor, actions: Tensor) -> Tensor:
    """The mean variances of (x, u) at a time step, of rollouts (...,N,T+1,n) and (...,N,T,A), as
    a diagonal matrix (n+A,n+A).
    """
    inputs = torch.cat([states[..., :-1, :], actions], -1)
    return inputs.var(-3, correction=0).flatten(0, -2).mean(0).diag()


def join_steps(states: Tensor, actions: Tensor) -> Tensor:
    """(x, u, x') of each step (...,T,m)."""
    return torch.cat([states[..., :-1, :], actions, states[..., 1:, :]], -1)


def measure_cov(apart: Tensor) -> Tensor:
    """The covariance (...,T,m,m) of deviations (...,N,T,m) from their mean."""
    return torch.einsum("...nti,...ntj->...tij", apart, apart) / apart.shape[-3]


def average_near(steps: Tensor, reach: int) -> Tensor:
    """The means of (...,T,m,m) over the steps at most `reach` away from each."""
    time = torch.arange(steps.shape[-3], device=steps.device)
    near = ((time[:, None] - time).abs() <= reach).to(steps)
    return torch.einsum("ts,...sij->...tij", near / near.sum(1, keepdim=True), steps)


def find_share(weight: float, count: int) -> float:
    """The share of a prior beside `count` rollouts; 1 if its weight is infinite."""
    return 1.0 - count / (count + weight)


def join_cov(prior: Prior) -> Tensor:
    """S0 (...,m,m): the covariance of (x, u, x') by the prior's model."""
    slopes = torch.cat([prior.model.matrix, prior.model.gain], -1)
    cross = slopes @ prior.spread
    inputs = prior.spread.expand(*cross.shape[:-2], *prior.spread.shape)
    lower = torch.cat([cross, cross @ slopes.mT + prior.model.noise], -1)
    return torch.cat([torch.cat([inputs, cross.mT], -1), lower], -2)


def condition_gaussian(mean: Tensor, cov: Tensor, size: int) -> LinearModels:
    """The regression of the last `size` entries of a Gaussian (...,m) on the others."""
    slopes = cov[..., -size:, :-size] @ torch.linalg.pinv(cov[..., :-size, :-size], hermitian=True)
    offset = mean[..., -size:] - (slopes @ mean[..., :-size].unsqueeze(-1)).squeeze(-1)
    # (-W I) cov (-W I)' stays positive semi-definite
    unit = torch.eye(size, dtype=cov.dtype, device=cov.device)
    rest = torch.cat([-slopes, unit.expand(*slopes.shape[:-1], size)], -1)
    noise = rest @ cov @ rest.mT
    matrix, gain = slopes.split([size, slopes.shape[-1] - size], -1)
    return LinearModels(matrix, gain, offset, symmetrize(noise))


def symmetrize(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
