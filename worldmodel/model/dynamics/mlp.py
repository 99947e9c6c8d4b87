"""Dynamics of the observed vector itself: an ensemble of probabilistic MLPs (PETS, MBPO).

x = standardise(s_{t-1}), a_t --member k--> N(s_t; s_{t-1} + mean_k, var_k)

Nothing is encoded: a state holds the vector (...,n), its features are the standardised vector
and a one.
`imagine_step` adds the mean and the log-variance it drew the vector from. `member` (...) says
which member imagines; rows without it get another random member at each step (TS-1 of PETS),
rollouts that `start_rollout` begins keep theirs (TS-infinity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.config.ranges import Layers, Width
from worldmodel.kernels import member_mlp, replaceable_by
from worldmodel.model.dynamics import Dynamics, Rollout, average_members, select_members
from worldmodel.model.member_networks import MemberMLP
from worldmodel.model.networks import add_constant
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

SHORTEST_MEAN = 100  # updates that the running statistics average over, at least


@dataclass(frozen=True)
class Settings:
    encodes_nothing = True
    has_members = True
    predicts_features = True

    layers: Layers
    units: Width
    activation: Literal["silu", "leaky_relu"]
    noise: Literal["gaussian", "none"]
    residual: bool

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if c.env.obs != "state":
            found.append(
                f"model.dynamics: mlp predicts the observed vector; it needs env.obs state, not "
                f"{c.env.obs}"
            )
        if c.loss.balance == "learned" and self.noise == "gaussian":
            found.append(
                "loss.balance: learned weighs losses by their size, and the log-density of "
                "model.dynamics mlp may be negative; set it to fixed, or mlp.noise to none"
            )
        used = [name for name, weight in c.loss.objective.items() if weight]
        if used:
            found.append(
                f"loss.objective: model.dynamics mlp encodes nothing, so {used[0]} has nothing to "
                "train; set it to {}"
            )
        return found


class MLPDynamics(Dynamics):
    """K members, each with a network of its own."""

    standardizes = True
    # Of the log-variance, in units of the data's own (Chua et al. 2018, appendix A.1; fixed)
    log_var_bounds = -10.0, 0.5

    def __init__(
        self,
        settings: Settings,
        make_latent: Callable[..., Any],
        *,
        actions: int,
        embed: int,
        members: int = 1,
    ):
        super().__init__()
        self.settings, self.size, self.members = settings, embed, members
        self.feature_size = embed + 1
        self.net = MemberMLP(
            members,
            embed + actions,
            2 * embed,
            settings.layers,
            settings.units,
            activation=settings.activation,
        )
        self.mean: Tensor
        self.std: Tensor
        self.step_std: Tensor
        self.register_buffer("mean", torch.zeros(embed))
        self.register_buffer("std", torch.ones(embed))
        self.register_buffer("step_std", torch.ones(embed))  # of the change in one step

    @property
    def noisy(self) -> bool:
        return False  # the loss is a likelihood; free nats do not apply

    @property
    def scale(self) -> Tensor:
        """What the network's predictions are multiplied by: a std (n,)."""
        return self.step_std.clamp(min=1e-6) if self.settings.residual else self.spread

    @property
    def spread(self) -> Tensor:
        """The data's std (n,), never zero."""
        return self.std.clamp(min=1e-6)

    @torch.no_grad()
    def update_statistics(
        self, vector: Tensor, is_first: Tensor, update: int, over_ranks: Callable[[Tensor], Tensor]
    ) -> None:
        """Move the running mean and std towards those of a batch (B,T,n)."""
        rate = 1 / min(update + 1, SHORTEST_MEAN)
        rows = vector.flatten(0, 1)
        inside = (~is_first[:, 1:].bool()).float().unsqueeze(-1)
        steps = (vector[:, 1:] - vector[:, :-1]) * inside
        mean = over_ranks(rows.mean(0))
        square = over_ranks((rows - mean).square().mean(0))
        step_square = over_ranks(steps.square().sum((0, 1)) / inside.sum().clamp(min=1))
        # The variance of a mixture of the old and the new data.
        shift = (mean - self.mean).square() * rate * (1 - rate)
        self.std.copy_((torch.lerp(self.std.square(), square, rate) + shift).sqrt())
        self.step_std.copy_(torch.lerp(self.step_std.square(), step_square, rate).sqrt())
        self.mean.lerp_(mean, rate)

    def standardize(self, vector: Tensor) -> Tensor:
        return (vector.float() - self.mean) / self.spread

    def restore(self, feat: Tensor) -> Tensor:
        """The vectors (...,n) that have these features."""
        return feat[..., : self.size].float() * self.spread + self.mean

    def initial(self, batch: int) -> State:
        return {"vector": torch.zeros(batch, self.size, device=self.mean.device)}

    def features(self, state: State) -> Tensor:
        """The standardised vector and a one: the first norm of a head hides the size of its input
        from layers without bias, and a constant beside it shows it again.
        """
        return add_constant(self.standardize(state["vector"]))

    def expected_features(self, state: State) -> Tensor:
        return add_constant(self.mean_latent(state))

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """The posterior is what was seen; the prior has an axis of members: mean (B,T,K,n).

        Nothing predicts an episode's first vector: its prior is the data's mean and variance.
        """
        before = start["vector"].unsqueeze(1) if start else embed[:, :1]
        before = torch.cat([before, embed[:, :-1]], 1)
        x = torch.cat([self.standardize(before), prev_action], -1)
        mean, log_var = self._read(self.net.run_all(x), before.unsqueeze(-2))
        first = is_first.bool()[..., None, None]
        mean = torch.where(first, self.mean, mean)
        log_var = torch.where(first, 2 * self.spread.log(), log_var)
        return {"vector": embed}, {"mean": mean, "log_var": log_var}

    def infer_states(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> State:
        return {"vector": embed}

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        return {"vector": embed.float()}

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        vector, member = state["vector"], self.choose_members(state, generator)
        x = torch.cat([self.standardize(vector), action.float()], -1)
        mean, log_var = self._read(self.net.run_each(x, member), vector)
        found = {"vector": mean, "mean": mean, "log_var": log_var}
        if self.settings.noise == "gaussian":
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            found["vector"] = mean + (0.5 * log_var).exp() * noise
        return {**found, **select_members(state)}

    @replaceable_by(member_mlp.start_rollout)
    def start_rollout(
        self, state: State, steps: int, generator: torch.Generator | None = None
    ) -> Rollout:
        return super().start_rollout(state, steps, generator)

    def predict_members(self, feat: Tensor, action: Tensor) -> Tensor:
        before = self.restore(feat).unsqueeze(-2)
        x = torch.cat([feat[..., : self.size].float(), action.float()], -1)
        return self.standardize(self._read(self.net.run_all(x), before)[0]).movedim(-2, 0)

    def predict_features(self, feat: Tensor, action: Tensor) -> Tensor:
        return self.features(self.predict_state(feat, action))

    def predict_state(self, feat: Tensor, action: Tensor) -> State:
        """A Gaussian with the moments of the mixture of all members."""
        x = torch.cat([feat[..., : self.size].float(), action.float()], -1)
        means, log_vars = self._read(self.net.run_all(x), self.restore(feat).unsqueeze(-2))
        mean = means.mean(-2)
        variance = log_vars.exp().mean(-2) + means.var(-2, correction=0)
        return {"vector": mean, "mean": mean, "log_var": variance.log()}

    def predict_latent(self, state: State) -> State:
        if "mean" in state:
            return {"mean": state["mean"], "log_var": state["log_var"]}
        log_var = 2 * self.spread.log()
        wide = state["vector"].shape
        return {"mean": self.mean.expand(wide), "log_var": log_var.expand(wide)}

    def infer_latent(self, state: State, embed: Tensor) -> State:
        return {"vector": embed.float()}

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {"vector": self.restore(stoch)}

    def distribution(self, state: State) -> State:
        return {"vector": state["vector"]}

    def mean_latent(self, state: State) -> Tensor:
        return self.standardize(state["vector"] if "vector" in state else state["mean"])

    def kl(self, post: State, prior: State) -> Tensor:
        """The negative log-likelihood (...) of the observed vector, as PETS trains it.

        It is the KL from a point at what was seen, less an infinite constant. Over an axis of
        members it is the mean, weighted by how often each member's resample holds the row. A state
        in place of a prior predicts itself, with the variance of the data's steps.
        """
        vector = post["vector"]
        if "mean" not in prior:
            return self._log_loss(vector, prior["vector"], 2 * self.step_std.clamp(1e-6).log())
        mean, log_var = prior["mean"], prior["log_var"]
        if mean.dim() > vector.dim():
            loss = self._log_loss(vector.unsqueeze(-2), mean, log_var)
            return average_members(loss, prior)
        return self._log_loss(vector, mean, log_var)

    def _log_loss(self, vector: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return 0.5 * ((vector - mean).square() * (-log_var).exp() + log_var).sum(-1)

    def centre(self, posts: State) -> State:
        vector = posts["vector"]
        return {"mean": vector.mean(0), "log_var": vector.var(0, correction=0).clamp(1e-12).log()}

    def _read(self, params: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (...,n) of the next vector from a network's output."""
        mean, raw = params.float().chunk(2, -1)
        scale = self.scale
        mean = mean * scale + (before if self.settings.residual else self.mean)
        if self.settings.noise == "none":
            raw = torch.zeros_like(raw)
        else:
            least, most = self.log_var_bounds
            raw = most - F.softplus(most - raw)
            raw = least + F.softplus(raw - least)
        return mean, raw + 2 * scale.log()
