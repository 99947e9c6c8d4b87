"""Linear-Gaussian dynamics of a latent, with its exact posterior (SOLAR, Zhang et al. 2019).

z_1 ~ N(m_1, S_1)                                  an episode's first latent
z_{t+1} ~ N(A z_t + B a_t + c, Q)                  a step, by the same A, B, c and Q everywhere
q(z | o, a) ~ p(z | a) prod_t N(mu_t; z_t, R_t)    posterior: mu_t and R_t are read off o_t

An encoder turns each observation into a Gaussian potential over its latent. With `widths shared`
its R is a weight, the same for all observations: then the means of the posterior are linear in
those of the potentials. All else is exact: the forward pass filters (Kalman), the backward pass
smooths (Rauch, Tung and Striebel), so that the posterior of a step knows the whole sequence. While
acting there is only the forward pass.

The KL between the posterior of a sequence and its prior is a sum over steps,

KL = sum_t  E_q[log N(mu_t; z_t, R_t)] - log N(mu_t; m_t, P_t + R_t)

with the prediction N(m_t, P_t) of the forward pass. So a term may be below zero, and free nats do
not apply. The losses `dyn` and `rep` are this KL. At equal weights they are the ELBO's; a smaller
weight of `rep` pulls the encoder less towards what can be predicted. SOLAR infers a distribution
over A, B, c and Q too; here they are trained as weights.

A state holds the sample stoch (...,S), mean (...,S) and cov (...,S,S) of the posterior, the same
after the forward pass alone as filter_*, the prediction as prior_*, and the potential as
potential_mean and potential_var (...,S).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.config.ranges import Range, Width
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.networks import MLP, UNIT
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    predicts_features = True
    moves_gaussian = True

    layers: Annotated[int, Range(0, 100)]
    units: Width
    noise: Annotated[float, Range(1e-3, 100)]
    spread: Annotated[float, Range(1e-3, 1e3)]
    widths: Literal["picture", "shared"]

    def contradictions(self, c: Config) -> list[str]:
        if self.noise > c.model.min_std:
            return []
        return [
            f"linear_gaussian.noise: {self.noise} is not above model.min_std {c.model.min_std}, "
            "which the std of a step's noise never falls below"
        ]


class LinearModel(nn.Module):
    """A, B, c and Q, and the distribution of an episode's first latent."""

    def __init__(self, size: int, actions: int, min_std: float, noise: float):
        super().__init__()
        self.min_std = min_std
        self.change = nn.Parameter(torch.zeros(size, size))  # A is I plus this
        self.gain = nn.Parameter(torch.randn(size, actions) * 0.1)  # B
        self.offset = nn.Parameter(torch.zeros(size))  # c
        raw = math.log(math.expm1(noise - min_std))
        self.raw_noise = nn.Parameter(torch.full((size,), raw))
        self.first = nn.Parameter(torch.zeros(size))  # m_1
        self.raw_first = nn.Parameter(torch.full((size,), UNIT))

    @property
    def matrix(self) -> Tensor:
        """A (S,S)."""
        return torch.eye(len(self.change), device=self.change.device) + self.change

    @property
    def noise(self) -> Tensor:
        """Q (S,S), diagonal."""
        return (F.softplus(self.raw_noise) + self.min_std).square().diag_embed()

    @property
    def first_cov(self) -> Tensor:
        """S_1 (S,S), diagonal."""
        return (F.softplus(self.raw_first) + self.min_std).square().diag_embed()

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """A z + B a + c."""
        return z @ self.matrix.mT + action @ self.gain.mT + self.offset


class LinearGaussian(Dynamics):
    noisy = False  # a term of the sum over steps may be below zero, so free nats do not apply
    smooths = True

    def __init__(
        self, settings: Settings, make_latent: Callable[..., Any], *, actions: int, embed: int
    ):
        super().__init__()
        self.latent = make_latent()
        self.size = self.feature_size = self.latent.size
        self.prior_net = LinearModel(self.size, actions, self.latent.min_std, settings.noise)
        shares = settings.widths == "shared"
        count = self.size if shares else self.latent.num_params
        self.post_net = MLP(embed, count, settings.layers, settings.units, exact=False)
        self.raw_width = nn.Parameter(torch.zeros(self.size)) if shares else None
        with torch.no_grad():
            self.post_net.out.weight[: self.size] *= settings.spread

    def initial(self, batch: int) -> State:
        """Zeros."""
        zeros = self.prior_net.first.new_zeros
        names = "stoch", "mean", "filter_mean", "prior_mean", "potential_mean", "potential_var"
        state = {name: zeros(batch, self.size) for name in names}
        covariances = "cov", "filter_cov", "prior_cov"
        return state | {name: zeros(batch, self.size, self.size) for name in covariances}

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        with torch.autocast(embed.device.type, enabled=False):
            found = self._filter_sequence(embed, prev_action, is_first, start)
            found |= self._smooth(found, is_first)
            found["stoch"] = self.draw(found["mean"], found["cov"])
        return found, {"mean": found["prior_mean"], "cov": found["prior_cov"]}

    def infer_states(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> State:
        """The forward pass alone: what an agent knows at each step."""
        with torch.autocast(embed.device.type, enabled=False):
            found = self._filter_sequence(embed, prev_action, is_first, start)
            return self._finish_filtering(found)

    def _filter_sequence(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> State:
        """The forward pass: filtered states (B,T,...)."""
        state, steps = start or self.initial(len(embed)), []
        mean, variance = self._read_potentials(embed)
        for t in range(embed.shape[1]):
            prior = self._predict(state, prev_action[:, t], is_first[:, t])
            state = condition(prior, mean[:, t], variance[:, t])
            steps.append(state)
        return {k: torch.stack([step[k] for step in steps], 1) for k in steps[0]}

    def _smooth(self, found: State, is_first: Tensor) -> State:
        """The backward pass: mean and cov given the whole sequence, of an episode's steps only."""
        mean, cov, matrix = found["filter_mean"], found["filter_cov"], self.prior_net.matrix
        means, covs = [mean[:, -1]], [cov[:, -1]]
        for t in reversed(range(mean.shape[1] - 1)):
            ahead_mean, ahead_cov = found["prior_mean"][:, t + 1], found["prior_cov"][:, t + 1]
            # G = P A' (P_{t+1 predicted})^-1; nothing comes back from another episode
            gain = solve(ahead_cov, matrix @ cov[:, t]).mT
            last = is_first[:, t + 1].bool()[:, None, None]
            shift = torch.where(last, 0.0, (means[-1] - ahead_mean).unsqueeze(-1))
            spread = torch.where(last, 0.0, covs[-1] - ahead_cov)
            means.append(mean[:, t] + (gain @ shift).squeeze(-1))
            covs.append(symmetrize(cov[:, t] + gain @ spread @ gain.mT))
        return {"mean": torch.stack(means[::-1], 1), "cov": torch.stack(covs[::-1], 1)}

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        with torch.autocast(embed.device.type, enabled=False):
            prior = self._predict(state, prev_action, is_first)
            return self._finish_filtering(
                condition(prior, *self._read_potentials(embed)), generator
            )

    def _finish_filtering(self, found: State, generator: torch.Generator | None = None) -> State:
        mean, cov = found["filter_mean"], found["filter_cov"]
        return {**found, "mean": mean, "cov": cov, "stoch": self.draw(mean, cov, generator)}

    def _read_potentials(self, embed: Tensor) -> tuple[Tensor, Tensor]:
        """mu and the diagonal of R (...,S) of observations' embeddings."""
        found = self.post_net(embed.float())
        if self.raw_width is not None:
            found = torch.cat([found, self.raw_width.expand_as(found)], -1)
        dist = self.latent.dist(found)
        return dist["mean"], dist["std"].square()

    def _predict(self, before: State, action: Tensor, is_first: Tensor) -> State:
        """The prediction after filtered states (B,...) and actions, or an episode's first."""
        model, first = self.prior_net, is_first.bool().unsqueeze(-1)
        mean, action = (torch.where(first, 0.0, v) for v in (before["filter_mean"], action))
        cov = torch.where(first.unsqueeze(-1), 0.0, before["filter_cov"].float())
        step = symmetrize(model.matrix @ cov @ model.matrix.mT + model.noise)
        return {
            "mean": torch.where(first, model.first, model(mean.float(), action.float())),
            "cov": torch.where(first.unsqueeze(-1), model.first_cov, step),
        }

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        """A step from the sample."""
        found = self.predict_state(state["stoch"], action)
        return {**found, "stoch": self.draw(found["mean"], found["cov"], generator)}

    def predict_state(self, feat: Tensor, action: Tensor) -> State:
        mean = self.predict_features(feat, action)
        cov = self.prior_net.noise.expand(*mean.shape, self.size)
        step = {f"{k}mean": mean for k in ("", "filter_", "prior_")}
        step |= {f"{k}cov": cov for k in ("", "filter_", "prior_")}
        unseen = {"potential_mean": mean, "potential_var": torch.zeros_like(mean)}
        return {**step, **unseen, "stoch": mean}

    @staticmethod
    def draw(mean: Tensor, cov: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample (...,S) of N(mean, cov)."""
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + (factorize(cov) @ noise.unsqueeze(-1)).squeeze(-1)

    def predict_features(self, feat: Tensor, action: Tensor) -> Tensor:
        with torch.autocast(feat.device.type, enabled=False):
            return self.prior_net(feat.float(), action.float())

    def linearize(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (...,S,S), B (...,S,A) and c (...,S), the same everywhere."""
        model, many = self.prior_net, z.shape[:-1]
        parts = model.matrix, model.gain, model.offset
        matrix, gain, offset = (part.expand(*many, *part.shape) for part in parts)
        return matrix, gain, offset

    def read_model(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A (S,S), B (S,A), c (S,) and Q (S,S), which are those of every step."""
        model = self.prior_net
        return model.matrix, model.gain, model.offset, model.noise

    def apply_linearization(
        self, feat: Tensor, action: Tensor, change: Tensor, action_change: Tensor
    ) -> Tensor:
        return change @ self.prior_net.matrix.mT + action_change @ self.prior_net.gain.mT

    def features(self, state: State) -> Tensor:
        """z."""
        return self.join_features(state["stoch"])

    def expected_features(self, state: State) -> Tensor:
        return state["mean"]

    def predict_latent(self, state: State) -> State:
        return {"mean": state["prior_mean"], "cov": state["prior_cov"]}

    def infer_latent(self, state: State, embed: Tensor) -> State:
        with torch.autocast(embed.device.type, enabled=False):
            found = condition(self.predict_latent(state), *self._read_potentials(embed))
        return {"mean": found["filter_mean"], "cov": found["filter_cov"]}

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {**state, "stoch": stoch}

    def distribution(self, state: State) -> State:
        return {"mean": state["mean"], "cov": state["cov"]}

    def kl(self, post: State, prior: State) -> Tensor:
        """A step's term (...) of the KL between sequences, for states that `observe` made; for
        distributions alone, the KL between them.
        """
        with torch.autocast(post["mean"].device.type, enabled=False):
            if "potential_mean" not in post:
                return compute_kl(post, prior)
            mean, variance = post["potential_mean"], post["potential_var"]
            spread = post["cov"].diagonal(dim1=-2, dim2=-1)
            fit = -0.5 * ((mean - post["mean"]).square() + spread) / variance
            fit = fit - 0.5 * (2 * math.pi * variance).log()
            evidence = log_density(mean, prior["mean"], prior["cov"] + variance.diag_embed())
            return fit.sum(-1) - evidence

    def tabulate_log_probs(self, post: State, prior: State) -> Tensor:
        z, mean, cov = (v.float().flatten(0, 1) for v in (post["stoch"], *prior.values()))
        factor = factorize(cov)
        apart = z.mT - mean.unsqueeze(-1)  # (N,S,N): from the mean of each prior to each sample
        white = torch.linalg.solve_triangular(factor, apart, upper=False)
        size = self.size * math.log(2 * math.pi)
        return (-0.5 * (white.square().sum(1) + size) - log_root(factor).unsqueeze(1)).mT

    def centre(self, posts: State) -> State:
        """The Gaussian with the mean and the covariance of their mixture."""
        mean = posts["mean"].mean(0)
        apart = posts["mean"] - mean
        return {"mean": mean, "cov": posts["cov"].mean(0) + apart.mT @ apart / len(apart)}


def condition(prior: State, mean: Tensor, variance: Tensor) -> State:
    """The state after a potential N(mean; z, diag(variance)) on a prediction (Kalman's update)."""
    cov = prior["cov"]
    gain = solve(cov + variance.diag_embed(), cov).mT
    rest = torch.eye(cov.shape[-1], device=cov.device) - gain
    found = prior["mean"] + (gain @ (mean - prior["mean"]).unsqueeze(-1)).squeeze(-1)
    # Joseph's form, which stays positive definite in fp32
    after = rest @ cov @ rest.mT + gain @ variance.diag_embed() @ gain.mT
    return {
        "filter_mean": found,
        "filter_cov": symmetrize(after),
        "prior_mean": prior["mean"].expand_as(found),
        "prior_cov": cov.expand_as(after),
        "potential_mean": mean.expand_as(found),
        "potential_var": variance.expand_as(found),
    }


def factorize(cov: Tensor) -> Tensor:
    """The Cholesky factor; of what is not finite, something that is not finite either."""
    return torch.linalg.cholesky_ex(cov).L


def symmetrize(cov: Tensor) -> Tensor:
    return 0.5 * (cov + cov.mT)


def solve(cov: Tensor, right: Tensor) -> Tensor:
    """cov^-1 right, of a positive definite matrix (...,S,S)."""
    return torch.cholesky_solve(right, factorize(cov))


def log_density(x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """log N(x; mean, cov) (...)."""
    factor = factorize(cov)
    white = torch.linalg.solve_triangular(factor, (x - mean).unsqueeze(-1), upper=False)
    size = x.shape[-1] * math.log(2 * math.pi)
    return -0.5 * (white.square().sum((-2, -1)) + size) - log_root(factor)


def log_root(factor: Tensor) -> Tensor:
    """Half the log-determinant of a matrix, from its Cholesky factor."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def compute_kl(post: State, prior: State) -> Tensor:
    """KL divergence (...) between Gaussians of full covariance."""
    own, other = factorize(post["cov"]), factorize(prior["cov"])
    own, other = torch.broadcast_tensors(own, other)
    ratio = torch.linalg.solve_triangular(other, own, upper=False).square().sum((-2, -1))
    apart = (prior["mean"] - post["mean"]).unsqueeze(-1)
    shift = torch.linalg.solve_triangular(other, apart, upper=False).square().sum((-2, -1))
    return 0.5 * (ratio + shift - own.shape[-1]) + log_root(other) - log_root(own)
