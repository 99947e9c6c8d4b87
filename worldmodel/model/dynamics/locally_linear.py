"""Locally linear dynamics of a Gaussian latent (Embed to Control, Watter et al. 2015).

z_t ~ q(z | o_{t-n+1} ... o_t)                        posterior: from the last n observations
z_{t+1} ~ N(A z + B a + o, H)                         a step from a sample z of it
A = I + v r', and v, r, B and o are functions of z

The prior that the posterior is compared with is that of the whole distribution N(m, S) before the
step, moved by the A, B and o of its sample: N(A m + B a + o, diag(A S A') + H). The covariances
between the entries of A S A' are dropped. Rollouts lose nothing: they move samples.

v and r are bounded by 1 / sqrt(size) in each entry. So 1 + r'v, the only eigenvalue of A that
is not one, lies between 0 and 2, and a long rollout cannot explode within a few steps.

A state holds stoch z (...,S), mean and std of its distribution, prior_mean and prior_std, and with
n = 2 the last embedding that was seen as `past`. An episode's first observation stands for the one
before it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from worldmodel.config.ranges import Layers, Range, Width
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.networks import MLP, UNIT, BiasedMLP
from worldmodel.spaces import State


@dataclass(frozen=True)
class Settings:
    predicts_features = True
    moves_gaussian = True

    layers: Layers
    units: Width
    frames: Annotated[int, Range(1, 2)]


class LocalModel(nn.Module):
    """v, r, B and o as functions of z; the noise of a step, and an episode's first latent."""

    def __init__(self, size: int, actions: int, layers: int, units: int):
        super().__init__()
        self.size, self.actions = size, actions
        self.net = BiasedMLP(size, (3 + actions) * size, layers, units)
        self.noise = nn.Parameter(torch.zeros(size))  # before the latent's softplus, as all stds
        self.first = nn.Parameter(torch.tensor([0.0, UNIT]).repeat_interleave(size))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """v (...,S), r (...,S), B (...,S,A) and o (...,S) at z (...,S)."""
        size = self.size
        v, r, offset, flat = self.net(z).split([size, size, size, size * self.actions], -1)
        bound = size**-0.5
        return v.tanh() * bound, r.tanh() * bound, flat.unflatten(-1, (size, -1)), offset


class LocallyLinear(Dynamics):
    def __init__(
        self, settings: Settings, make_latent: Callable[..., Any], *, actions: int, embed: int
    ):
        super().__init__()
        self.latent, self.frames, self.embed = make_latent(), settings.frames, embed
        self.size = self.feature_size = self.latent.size
        self.prior_net = LocalModel(self.size, actions, settings.layers, settings.units)
        self.post_net = MLP(
            settings.frames * embed,
            self.latent.num_params,
            settings.layers,
            settings.units,
            exact=False,
        )

    def initial(self, batch: int) -> State:
        """Zeros."""
        zeros = self.prior_net.noise.new_zeros
        names = "stoch", "mean", "std", "prior_mean", "prior_std"
        state = {name: zeros(batch, self.size) for name in names}
        return state | ({"past": zeros(batch, self.embed)} if self.frames > 1 else {})

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """All steps at once, since z depends on no earlier step but by its observations."""
        start = start or self.initial(len(embed))
        past = _shift(start["past"], embed) if self.frames > 1 else None
        params = self._infer(past, embed, is_first)
        post = {"stoch": self.latent.sample(params), **self.latent.dist(params)}
        before = {k: _shift(start[k], v) for k, v in post.items()}
        prior = self._predict(before, prev_action, is_first)
        post |= {f"prior_{k}": v for k, v in prior.items()}
        return post | ({"past": embed.float()} if self.frames > 1 else {}), prior

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        params = self._infer(state.get("past"), embed, is_first)
        post = {"stoch": self.latent.sample(params, generator), **self.latent.dist(params)}
        prior = self._predict(state, prev_action, is_first)
        post |= {f"prior_{k}": v for k, v in prior.items()}
        return post | ({"past": embed.float()} if self.frames > 1 else {})

    def _infer(self, past: Tensor | None, embed: Tensor, is_first: Tensor) -> Tensor:
        """The posterior's parameters from embeddings (...,E), and those of a step before."""
        if past is None:
            return self.post_net(embed)
        past = torch.where(is_first.bool().unsqueeze(-1), embed, past.to(embed.dtype))
        return self.post_net(torch.cat([past, embed], -1))

    def _predict(self, before: State, action: Tensor, is_first: Tensor) -> State:
        """The prior after states and actions: N(A m + B a + o, diag(A S A') + H)."""
        first = is_first.bool().unsqueeze(-1)
        stoch, mean, std = (torch.where(first, 0.0, before[k]) for k in ("stoch", "mean", "std"))
        action = torch.where(first, 0.0, action)
        v, r, gain, offset = self.prior_net(stoch)
        # (A S A')_ii = s_i + 2 v_i r_i s_i + v_i^2 sum_j r_j^2 s_j, of the variances s
        variance = std.square()
        moved = variance * (1 + 2 * v * r) + v.square() * (r.square() * variance).sum(-1, True)
        step = self._step(mean, action, v, r, gain, offset)
        noise = self.latent.dist(torch.cat([step, self.prior_net.noise.expand_as(step)], -1))
        whole = (moved + noise["std"].square()).sqrt()
        start = self.latent.dist(self.prior_net.first)
        return {
            "mean": torch.where(first, start["mean"], step),
            "std": torch.where(first, start["std"], whole),
        }

    def _step(
        self, z: Tensor, action: Tensor, v: Tensor, r: Tensor, gain: Tensor, offset: Tensor
    ) -> Tensor:
        """A z + B a + o (...,S), in fp32."""
        pushed = (gain * action.unsqueeze(-2)).sum(-1)
        return z + v * (r * z).sum(-1, keepdim=True) + pushed + offset

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        mean = self.predict_features(state["stoch"], action)
        params = torch.cat([mean, self.prior_net.noise.expand_as(mean)], -1)
        dist = self.latent.dist(params)
        prior = {f"prior_{k}": v for k, v in dist.items()}
        found = {"stoch": self.latent.sample(params, generator), **dist, **prior}
        return found | ({"past": state["past"]} if self.frames > 1 else {})

    def predict_features(self, feat: Tensor, action: Tensor) -> Tensor:
        feat = feat.float()
        return self._step(feat, action.float(), *self.prior_net(feat))

    def predict_state(self, feat: Tensor, action: Tensor) -> State:
        mean = self.predict_features(feat, action)
        dist = self.latent.dist(torch.cat([mean, self.prior_net.noise.expand_as(mean)], -1))
        return {"stoch": mean, **dist, **{f"prior_{k}": v for k, v in dist.items()}}

    def linearize(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (...,S,S), B (...,S,A) and o (...,S) of the step from z: its mean is A z + B a + o.

        They hold A, B and o at their values at z. `objectives/curvature.py` trains A to be the
        derivative of the whole step.
        """
        v, r, gain, offset = self.prior_net(z.float())
        eye = torch.eye(self.size, device=z.device)
        return eye + v.unsqueeze(-1) * r.unsqueeze(-2), gain, offset

    def apply_linearization(
        self, feat: Tensor, action: Tensor, change: Tensor, action_change: Tensor
    ) -> Tensor:
        v, r, gain, _ = self.prior_net(feat.float())
        return self._step(change, action_change, v, r, gain, torch.zeros_like(v))

    def features(self, state: State) -> Tensor:
        """z."""
        return self.join_features(state["stoch"])

    def expected_features(self, state: State) -> Tensor:
        return state["mean"]

    def predict_latent(self, state: State) -> State:
        return {"mean": state["prior_mean"], "std": state["prior_std"]}

    def infer_latent(self, state: State, embed: Tensor) -> State:
        """If nothing moved: an embedding stands for the one before it too (PCC, PC3)."""
        return self.latent.dist(self.post_net(torch.cat([embed] * self.frames, -1)))

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {**state, "stoch": stoch}


def _shift(before: Tensor, x: Tensor) -> Tensor:
    """x (B,T,...) one step later, its first step from (B,...)."""
    return torch.cat([before.unsqueeze(1).to(x.dtype), x[:, :-1]], 1)
