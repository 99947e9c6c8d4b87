"""The recurrent state-space model (PlaNet, Dreamer 1 to 3): one cell for every latent.

prev {deter, stoch} + prev_action --cell--> deter --prior--> stoch   (imagine)
                                            deter + embed --posterior--> stoch   (observe)

A state holds deter (...,D) and stoch (...,S[,K]). `observe` adds the distribution of stoch,
`imagine_step` its parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from worldmodel.config.ranges import Width
from worldmodel.kernels import (
    elementwise,
    planning_step,
    planning_step_fp32,
    replaceable_by,
    sequence,
)
from worldmodel.model.dynamics import Dynamics, Rollout, select_members
from worldmodel.model.member_networks import MemberMLP
from worldmodel.model.networks import MLP, BlockLinear, Norm, norm_silu
from worldmodel.spaces import State, join_states

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    section = "model"
    has_members = True
    predicts_features = True

    transition: Literal["rssm", "ssm", "rnn"]
    deter: Width
    hidden: Width
    blocks: Width

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if self.transition == "rnn" and c.model.latent != "deterministic":
            found.append(
                f"model.transition: rnn has no noise; it needs model.latent deterministic, not "
                f"{c.model.latent}"
            )
        if self.deter % self.blocks:
            found.append(f"model.blocks: {self.blocks} does not divide model.deter {self.deter}")
        return found


class GRU(nn.Module):
    """GRU with one normalised projection for all gates, block-diagonal in the hidden state
    (Dreamer 2, 3).
    """

    def __init__(self, inputs: int, size: int, blocks: int):
        super().__init__()
        self.blocks, self.size = blocks, size
        width = size // blocks
        self.gates = (
            BlockLinear(blocks, inputs + width, 3 * width)
            if blocks > 1
            else nn.Linear(inputs + size, 3 * size)
        )
        self.norm = Norm(3 * size)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        if self.blocks > 1:
            parts = hidden.unflatten(-1, (self.blocks, -1))
            both = torch.cat([parts, x.unsqueeze(-2).expand(*x.shape[:-1], self.blocks, -1)], -1)
            gates = self.gates(both).unflatten(-1, (3, -1)).transpose(-3, -2).flatten(-3)
        else:
            gates = self.gates(torch.cat([x, hidden.to(x.dtype)], -1))
        return gru_cell(gates, self.norm, hidden)


@replaceable_by(elementwise.gru_cell)
def gru_cell(gates: Tensor, norm: nn.RMSNorm, hidden: Tensor) -> Tensor:
    """The new hidden state (...,D) from unnormalised gates (...,3D) and the old hidden state."""
    reset, candidate, update = norm(gates).chunk(3, -1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(hidden, candidate, torch.sigmoid(update - 1))


class RSSM(Dynamics):
    """`transition` selects what is carried between steps: rssm deter and stoch, ssm stoch alone,
    rnn one noiseless vector.
    """

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
        self.members = members
        transition, deter, hidden = settings.transition, settings.deter, settings.hidden
        # An rnn's only state is its latent, which the GRU carries.
        self.latent = latent = make_latent(deter) if transition == "rnn" else make_latent()
        self.transition = transition
        self.deter_size = hidden if transition == "ssm" else deter
        self.feature_size = latent.size + (deter if transition == "rssm" else 0)
        self.from_action = nn.Linear(actions, hidden)
        self.from_stoch = (
            nn.Linear(latent.size, hidden, bias=False) if transition != "rnn" else None
        )
        self.input_norm = Norm(hidden)
        self.gru = GRU(hidden, deter, settings.blocks) if transition != "ssm" else None
        self.prior_net: MLP | MemberMLP
        if members == 1:
            self.prior_net = MLP(self.deter_size, latent.num_params, 1, hidden, exact=False)
        else:
            self.prior_net = MemberMLP(
                members, self.deter_size, latent.num_params, 1, hidden, norm=True
            )
        self.post_deter = nn.Linear(self.deter_size, hidden, bias=False)
        self.post_embed = nn.Linear(embed, hidden)
        self.post_norm = Norm(hidden)
        self.post_out = nn.Linear(hidden, latent.num_params)

    def initial(self, batch: int) -> State:
        """Zeros."""
        device = self.post_out.weight.device
        return {
            "deter": torch.zeros(batch, self.deter_size, device=device),
            "stoch": torch.zeros(batch, *self.latent.shape, device=device),
        }

    def features(self, state: State) -> Tensor:
        """[deter, stoch] for rssm, stoch alone for ssm and rnn."""
        flat = self.latent.flat(state["stoch"])
        parts = (state["deter"], flat) if self.transition == "rssm" else (flat,)
        return self.join_features(*parts)

    def expected_features(self, state: State) -> Tensor:
        """With the mean over members, if the latent's distribution has one for each of them."""
        mean = self.latent.compute_mean(state)
        mean = mean.mean(-2) if mean.dim() > state["deter"].dim() else mean
        return torch.cat([state["deter"], mean], -1) if self.transition == "rssm" else mean

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        keep = (~is_first.bool()).float().unsqueeze(-1)
        action_in = self.from_action(prev_action * keep)
        embed_in = self.post_embed(embed)
        start = start or self.initial(embed.shape[0])
        post = self.filter_sequence(start, action_in, embed_in, keep)
        post |= self.latent.dist(post.pop("params"))
        return post, self.latent.dist(self._priors(post["deter"]))

    @replaceable_by(sequence.filter_sequence)
    def filter_sequence(
        self, state: State, action_in: Tensor, embed_in: Tensor, keep: Tensor
    ) -> State:
        """The posterior states (B,T,...) after a start state, with their distributions' `params`,
        from projected actions and embeddings (B,T,H). `keep` (B,T,1) is 0 where an episode starts.
        """
        steps = []
        for t in range(embed_in.shape[1]):
            state = self._reset(state, keep[:, t])
            deter = self._advance(state, action_in[:, t])
            params = self._posterior(deter, embed_in[:, t])
            state = {"deter": deter, "stoch": self.latent.sample(params)}
            steps.append({**state, "params": params})
        return join_states(steps, lambda leaves: torch.stack(leaves, 1))

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        keep = (~is_first.bool()).float().unsqueeze(-1)
        deter = self._advance(self._reset(state, keep), self.from_action(prev_action * keep))
        stoch = self.latent.sample(self._posterior(deter, self.post_embed(embed)), generator)
        return {"deter": deter, "stoch": stoch.float()}

    def predict_latent(self, state: State) -> State:
        params = state["params"] if "params" in state else self._priors(state["deter"])
        return self.latent.dist(params)

    def infer_latent(self, state: State, embed: Tensor) -> State:
        return self.latent.dist(self._posterior(state["deter"], self.post_embed(embed)))

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {**state, "stoch": stoch}

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        deter = self._advance(state, self.from_action(action))
        if isinstance(self.prior_net, MLP):
            params = self.prior_net(deter)
        else:
            params = self.prior_net.run_each(deter, self.choose_members(state, generator))
        stoch = self.latent.sample(params, generator)
        return {"deter": deter, "stoch": stoch, "params": params, **select_members(state)}

    @replaceable_by(planning_step.start_rollout)
    @replaceable_by(planning_step_fp32.start_rollout)
    def start_rollout(
        self, state: State, steps: int, generator: torch.Generator | None = None
    ) -> Rollout:
        return super().start_rollout(state, steps, generator)

    def imagine(
        self, state: State, actions: Tensor, generator: torch.Generator | None = None
    ) -> State:
        steps, state = [], self.keep_members(state, generator)
        for t in range(actions.shape[1]):
            state = self.imagine_step(state, actions[:, t], generator)
            steps.append(state)
        kept = ("deter", "stoch", *select_members(state))
        return {k: torch.stack([s[k] for s in steps], 1) for k in kept}

    def predict_members(self, feat: Tensor, action: Tensor) -> Tensor:
        return self._predict_from_features(feat, action)[1].movedim(-2, 0)

    def predict_features(self, feat: Tensor, action: Tensor) -> Tensor:
        state = self.predict_state(feat, action)
        mean = self.latent.flat(state["stoch"])
        return torch.cat([state["deter"], mean], -1) if self.transition == "rssm" else mean

    def predict_state(self, feat: Tensor, action: Tensor) -> State:
        deter, mean = self._predict_from_features(feat, action)
        mean = mean.mean(-2) if self.members > 1 else mean
        return {"deter": deter, "stoch": mean.unflatten(-1, self.latent.shape)}

    def _predict_from_features(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """deter of the next step, and its mean latent (...,S), or (...,K,S) by each member."""
        size = feat.shape[-1] - self.latent.size
        deter, flat = feat.split((size, self.latent.size), -1)
        stoch = flat.unflatten(-1, self.latent.shape)
        deter = self._advance({"deter": deter.float(), "stoch": stoch}, self.from_action(action))
        return deter, self.latent.compute_mean(self.latent.dist(self._priors(deter)))

    def _priors(self, deter: Tensor) -> Tensor:
        """The prior's parameters (...,P), or (...,K,P) with several members."""
        if isinstance(self.prior_net, MLP):
            return self.prior_net(deter)
        return self.prior_net.run_all(deter)

    def _reset(self, state: State, keep: Tensor) -> State:
        """Zero the states where an episode starts; `where` stops even a NaN."""
        stoch, keep = state["stoch"], keep.bool()
        wide = keep.view(-1, *[1] * (stoch.dim() - 1))
        return {
            "deter": torch.where(keep, state["deter"], 0.0),
            "stoch": torch.where(wide, stoch, 0.0),
        }

    def _advance(self, state: State, action_in: Tensor) -> Tensor:
        """deter of the next step, from the previous state and the projected action."""
        if self.from_stoch is not None:
            action_in = action_in + self.from_stoch(self.latent.flat(state["stoch"]))
        x = norm_silu(action_in, self.input_norm)
        if self.gru is None:
            return x
        return self.gru(x, state["stoch"] if self.transition == "rnn" else state["deter"])

    def _posterior(self, deter: Tensor, embed_in: Tensor) -> Tensor:
        """The posterior's parameters from deter and the projected embedding."""
        return self.post_out(norm_silu(self.post_deter(deter) + embed_in, self.post_norm))
