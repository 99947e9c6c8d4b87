"""The recurrent state-space model: one cell for every latent and transition; observe() filters,
imagine() dreams.

prev {deter, stoch} + prev_action --cell--> deter --prior--> stoch   (imagine)
                                            deter + embed --posterior--> stoch   (observe)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.kernels import elementwise
from worldmodel.kernels.rssm_loops import Walk, filtered
from worldmodel.model.networks import MLP, BlockLinear, Norm
from worldmodel.spaces import State


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
        return elementwise.gru(gates, self.norm, hidden)


class RSSM(nn.Module):
    """`transition` says what is carried on: rssm deter and stoch, ssm stoch alone, rnn one
    noiseless vector.
    """

    def __init__(
        self,
        latent,
        transition: str,
        *,
        actions: int,
        embed: int,
        deter: int,
        hidden: int,
        blocks: int,
    ):
        super().__init__()
        self.latent, self.transition = latent, transition
        self.deter_size = hidden if transition == "ssm" else deter
        self.feat_size = latent.size + (deter if transition == "rssm" else 0)
        self.from_action = nn.Linear(actions, hidden)
        self.from_stoch = (
            nn.Linear(latent.size, hidden, bias=False) if transition != "rnn" else None
        )
        self.input_norm = Norm(hidden)
        self.gru = GRU(hidden, deter, blocks) if transition != "ssm" else None
        self.prior_net = MLP(self.deter_size, latent.num_params, 1, hidden, exact=False)
        self.post_deter = nn.Linear(self.deter_size, hidden, bias=False)
        self.post_embed = nn.Linear(embed, hidden)
        self.post_norm = Norm(hidden)
        self.post_out = nn.Linear(hidden, latent.num_params)

    def initial(self, batch: int) -> State:
        """The state before anything was seen: zeros."""
        device = self.post_out.weight.device
        return {
            "deter": torch.zeros(batch, self.deter_size, device=device),
            "stoch": torch.zeros(batch, *self.latent.shape, device=device),
        }

    def feat(self, state: State) -> Tensor:
        """What heads, decoder and behaviour see: (...,F), in the precision they multiply in."""
        flat = self.latent.flat(state["stoch"])
        parts = [state["deter"], flat] if self.transition == "rssm" else [flat]
        if torch.is_autocast_enabled(flat.device.type):
            rough = torch.get_autocast_dtype(flat.device.type)
            parts = [p.to(rough) for p in parts]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def expected_feat(self, state: State) -> Tensor:
        """`feat` without the noise of the draw: the latent's mean in place of its sample, (...,F)
        in fp32.
        """
        mean = self.latent.expected(state)
        return torch.cat([state["deter"], mean], -1) if self.transition == "rssm" else mean

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """Filter sequences: (B,T,E), (B,T,A), (B,T) -> posterior, prior with leaves (B,T,...).

        `start` is the state before the first step, or empty.
        """
        keep = (~is_first.bool()).float().unsqueeze(-1)
        action_in = self.from_action(prev_action * keep)
        embed_in = self.post_embed(embed)
        state = start or self.initial(embed.shape[0])
        if self._by_hand(embed_in):
            deter, stoch, params = filtered(self, action_in, embed_in, is_first, state)
            post = {"deter": deter, "stoch": stoch, **self.latent.dist(params)}
            return post, self.latent.dist(self.prior_net(deter))
        steps = []
        for t in range(embed.shape[1]):
            state = self._reset(state, keep[:, t])
            deter = self._advance(state, action_in[:, t])
            params = self._posterior(deter, embed_in[:, t])
            state = {"deter": deter, "stoch": self.latent.sample(params)}
            steps.append({**state, "params": params})
        posts = {k: torch.stack([s[k] for s in steps], 1) for k in steps[0]}
        posts |= self.latent.dist(posts.pop("params"))
        return posts, self.latent.dist(self.prior_net(posts["deter"]))

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        """One step of the online filter: embed (B,E), prev_action (B,A), is_first (B,)."""
        keep = (~is_first.bool()).float().unsqueeze(-1)
        deter = self._advance(self._reset(state, keep), self.from_action(prev_action * keep))
        stoch = self.latent.sample(self._posterior(deter, self.post_embed(embed)), generator)
        return {"deter": deter, "stoch": stoch.float()}

    def belief(self, deter: Tensor, embed: Tensor) -> Tensor:
        """Parameters of the latent if an embedding (...,E) were seen at deter (...,D); the two
        broadcast.
        """
        return self._posterior(deter, self.post_embed(embed))

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        """One step without an observation; the prior's parameters ride along."""
        deter = self._advance(state, self.from_action(action))
        params = self.prior_net(deter)
        return {"deter": deter, "stoch": self.latent.sample(params, generator), "params": params}

    def walk(
        self, state: State, steps: int, generator: torch.Generator | None = None
    ) -> Walk | Steps:
        """A dream from states (N,...) whose actions are given step by step."""
        by_hand = torch.is_autocast_enabled("cpu") and self._by_hand(
            torch.empty(0, dtype=torch.get_autocast_dtype("cpu"))
        )
        return (Walk if by_hand else Steps)(self, state, steps, generator)

    def _by_hand(self, like: Tensor) -> bool:
        """Whether loops over tensors like this one are better unrolled."""
        return (
            self.transition == "rssm"
            and self.gru is not None
            and self.gru.blocks == 1
            and elementwise.takes(like)
        )

    def imagine(
        self, state: State, actions: Tensor, generator: torch.Generator | None = None
    ) -> State:
        """Open-loop rollout: (B,H,A) -> deter and stoch (B,H,...)."""
        steps = []
        for t in range(actions.shape[1]):
            state = self.imagine_step(state, actions[:, t], generator)
            steps.append(state)
        return {k: torch.stack([s[k] for s in steps], 1) for k in ("deter", "stoch")}

    def _reset(self, state: State, keep: Tensor) -> State:
        """Zeros where an episode starts; `where`, so that not even a NaN is carried over."""
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
        x = elementwise.norm_silu(action_in, self.input_norm)
        if self.gru is None:
            return x
        return self.gru(x, state["stoch"] if self.transition == "rnn" else state["deter"])

    def _posterior(self, deter: Tensor, embed_in: Tensor) -> Tensor:
        """Parameters of the latent once something was seen."""
        return self.post_out(
            elementwise.norm_silu(self.post_deter(deter) + embed_in, self.post_norm)
        )


class Steps:
    """`unrolled.Walk` by autograd, for every transition, precision and device."""

    def __init__(self, rssm: RSSM, state: State, steps: int, generator: torch.Generator | None):
        self.rssm, self.state, self.generator = rssm, state, generator
        self.feats = [rssm.feat(state)]

    @property
    def feat(self) -> Tensor:
        return self.feats[-1].detach()

    def go(self, action: Tensor) -> None:
        self.state = self.rssm.imagine_step(self.state, action, self.generator)
        self.feats.append(self.rssm.feat(self.state))

    def seen(self) -> Tensor:
        return torch.stack([f.detach() for f in self.feats[:-1]])

    def arrived(self) -> Tensor:
        return torch.stack(self.feats[1:])
