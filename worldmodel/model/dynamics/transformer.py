"""A causal transformer over past (latent, action) tokens (TransDreamer, IRIS, TWM, STORM).

z_t ~ q(z | o_t)               posterior: from the picture alone, so all steps are encoded at once
x_t = f(z_{t-1}, a_t)          token: the latent before a step and the action that led to it
h_t = attend(x_{t-C} ... x_t)  causal, over the last C tokens of the same episode
z_t ~ p(z | h_t)               prior

A state holds hidden h (...,D), stoch z (...,S[,K]) and what the next step attends to: memory, the
keys and values (...,C,L,2,D) of the last C tokens in L layers, and seen (...,C), which of these
exist. Besides, `observe` leaves the distribution of z, and `imagine_step` its parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.config.ranges import Layers, Width
from worldmodel.model.dynamics import Dynamics, Rollout
from worldmodel.model.networks import MLP, Norm
from worldmodel.spaces import State, join_states, map_state

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    layers: Layers
    heads: Width
    width: Width
    context: Width

    def contradictions(self, c: Config) -> list[str]:
        if self.width % self.heads:
            problem = f"{self.heads} does not divide transformer.width {self.width}"
            return [f"transformer.heads: {problem}"]
        return []


class Memory:
    """Keys and values (2,B,heads,T,D/heads) of one layer, of which the first ones are given."""

    def __init__(self, past: Tensor, steps: int):
        # Without gradients there is room for all steps, so that none is copied again.
        self.has_room = not torch.is_grad_enabled()
        self.all = F.pad(past, (0, 0, 0, steps)) if self.has_room else past
        self.count = past.shape[3]

    def append(self, recent: Tensor) -> Tensor:
        """Add the next ones and return all so far."""
        before, self.count = self.count, self.count + recent.shape[3]
        if not self.has_room:
            self.all = torch.cat([self.all, recent], 3)
            return self.all
        self.all[:, :, :, before : self.count] = recent
        return self.all[:, :, :, : self.count]


class Block(nn.Module):
    """Attention, then a network of one hidden layer; each reads the norm and adds to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.hidden_norm = Norm(width), Norm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """x (B,T,D), the next T tokens after those in memory, which take these in.

        `bias` (B,heads,T,keys) is minus infinity where attention may not go.
        """
        parts = self.queries_keys_values(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        parts = parts.permute(2, 0, 3, 1, 4)  # (3,B,heads,T,D/heads)
        keys, values = memory.append(parts[1:]).unbind(0)
        # By hand: torch's fused attention is slower for the one query of a rollout's step.
        scores = (parts[0] / keys.shape[-1] ** 0.5) @ keys.mT + bias
        found = scores.softmax(-1) @ values
        x = x + self.attended(found.transpose(1, 2).flatten(-2))
        return x + self.out(F.silu(self.hidden(self.hidden_norm(x))))


class Transformer(Dynamics):
    def __init__(
        self, settings: Settings, make_latent: Callable[..., Any], *, actions: int, embed: int
    ):
        super().__init__()
        width, self.context, self.heads = settings.width, settings.context, settings.heads
        self.latent, self.width = make_latent(), width
        self.feature_size = width + self.latent.size
        self.from_stoch = nn.Linear(self.latent.size, width, bias=False)
        self.from_action = nn.Linear(actions, width)
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.layers))
        # Attention prefers some distances to others, whatever the tokens hold (T5, ALiBi).
        self.distance_bias = nn.Parameter(torch.zeros(settings.heads, settings.context + 1))
        self.norm = Norm(width)
        self.prior_net = MLP(width, self.latent.num_params, 1, width, exact=False)
        self.post_net = MLP(embed, self.latent.num_params, 1, width, exact=False)

    def initial(self, batch: int) -> State:
        """Zeros, and an empty memory."""
        zeros = self.distance_bias.new_zeros
        return {
            "hidden": zeros(batch, self.width),
            "stoch": zeros(batch, *self.latent.shape),
            "memory": zeros(batch, self.context, len(self.blocks), 2, self.width),
            "seen": zeros(batch, self.context),
        }

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        return self._filter(embed, prev_action, is_first, start or self.initial(len(embed)), None)

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        embed, prev_action, is_first = (x.unsqueeze(1) for x in (embed, prev_action, is_first))
        post, _ = self._filter(embed, prev_action, is_first, state, generator)
        return {k: post[k][:, 0] for k in ("hidden", "stoch", "memory", "seen")}

    def _filter(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        start: State,
        generator: torch.Generator | None,
    ) -> tuple[State, State]:
        """All steps at once, since z depends on no other step."""
        is_first = is_first.bool()
        params = self.post_net(embed)
        stoch = self.latent.sample(params, generator).float()
        before = torch.cat([start["stoch"].unsqueeze(1), stoch[:, :-1]], 1)
        memory = _where(is_first[:, 0], 0.0, start["memory"])  # not even a NaN is carried over
        tokens = self._make_tokens(
            _where(is_first, 0.0, before), _where(is_first, 0.0, prev_action)
        )
        # Steps attend to their own episode. Those before the first new start are the state's.
        episode = is_first.long().cumsum(1)
        known = torch.where(start["seen"] > 0, 0, -1)
        episodes = torch.cat([known, episode], 1)
        same = episodes.unsqueeze(1) == episode.unsqueeze(2)
        layers = self._open(memory, tokens.shape[1])
        hidden = self._attend(tokens, layers, self._bias(same))
        post = {
            "hidden": hidden,
            "stoch": stoch,
            "memory": self._slide(layers),
            "seen": (_windows(episodes, self.context) == episode.unsqueeze(2)).float(),
        }
        prior = self.latent.dist(self.prior_net(hidden))
        return {**post, **self.latent.dist(params)}, prior

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        found = self._imagine(state, action.unsqueeze(1), generator)
        return map_state(found, lambda v: v[:, 0])

    def imagine(
        self, state: State, actions: Tensor, generator: torch.Generator | None = None
    ) -> State:
        found = self._imagine(state, actions, generator)
        return {k: v for k, v in found.items() if k != "params"}

    def _imagine(self, state: State, actions: Tensor, generator: torch.Generator | None) -> State:
        rollout = TransformerRollout(self, state, actions.shape[1], generator)
        for action in actions.unbind(1):
            rollout.step(action)
        seen = F.pad(state["seen"], (0, actions.shape[1]), value=1.0)
        return {
            **join_states(rollout.states, lambda leaves: torch.stack(leaves, 1)),
            "memory": self._slide(rollout.layers),
            "seen": _windows(seen, self.context),
        }

    def start_rollout(
        self, state: State, steps: int, generator: torch.Generator | None = None
    ) -> Rollout:
        return TransformerRollout(self, state, steps, generator)

    def features(self, state: State) -> Tensor:
        """[hidden, stoch] (...,F)."""
        return self.join_features(state["hidden"], self.latent.flat(state["stoch"]))

    def expected_features(self, state: State) -> Tensor:
        return torch.cat([state["hidden"], self.latent.compute_mean(state)], -1)

    def predict_latent(self, state: State) -> State:
        params = state["params"] if "params" in state else self.prior_net(state["hidden"])
        return self.latent.dist(params)

    def infer_latent(self, state: State, embed: Tensor) -> State:
        """From the embedding alone, wherever it is seen."""
        return self.latent.dist(self.post_net(embed))

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {**state, "stoch": stoch}

    def _make_tokens(self, stoch: Tensor, action: Tensor) -> Tensor:
        return self.from_stoch(self.latent.flat(stoch)) + self.from_action(action)

    def _bias(self, allowed: Tensor) -> Tensor:
        """Attention's bias (B,heads,T,C+T) from T steps to C in memory and to each other.

        `allowed` (B,T or 1,C+T) excludes keys; causality and the context's length need not be in.
        """
        times = torch.arange(allowed.shape[2], device=allowed.device)
        distance = times[self.context :].unsqueeze(1) - times  # (T,C+T)
        allowed = allowed & (distance >= 0) & (distance <= self.context)
        bias = self.distance_bias[:, distance.clamp(0, self.context)]  # (heads,T,C+T)
        return torch.where(allowed.unsqueeze(1), bias, float("-inf"))

    def _attend(self, tokens: Tensor, layers: list[Memory], bias: Tensor) -> Tensor:
        """h (B,T,D) of the next tokens (B,T,D), which the layers' memories take in."""
        x = tokens
        for block, memory in zip(self.blocks, layers, strict=True):
            x = block(x, memory, bias)
        return self.norm(x)

    def _open(self, memory: Tensor, steps: int) -> list[Memory]:
        """The memory (B,C,L,2,D) of a state by layers, with room for more steps."""
        parts = memory.unflatten(-1, (self.heads, -1)).permute(2, 3, 0, 4, 1, 5)
        return [Memory(layer, steps) for layer in parts]

    def _slide(self, layers: list[Memory]) -> Tensor:
        """The memory after each of the T steps taken in, (B,T,C,L,2,D): views that overlap."""
        parts = torch.stack([layer.all for layer in layers])  # (L,2,B,heads,C+T,D/heads)
        whole = parts.permute(2, 4, 0, 1, 3, 5).flatten(-2).float()
        return _windows(whole, self.context)


class TransformerRollout(Rollout):
    """Reads the state's memory once; each step adds its keys and values behind it."""

    def __init__(
        self,
        dynamics: Transformer,
        state: State,
        steps: int,
        generator: torch.Generator | None,
    ):
        super().__init__(dynamics, state, generator)
        self.layers = dynamics._open(state["memory"], steps)
        allowed = F.pad(state["seen"] > 0, (0, steps), value=True)
        self.bias = dynamics._bias(allowed.unsqueeze(1))
        self.states: list[State] = []

    def step(self, action: Tensor) -> None:
        dynamics = cast(Transformer, self.dynamics)
        done = len(self.states)
        bias = self.bias[:, :, done : done + 1, : dynamics.context + done + 1]
        token = dynamics._make_tokens(self.state["stoch"], action).unsqueeze(1)
        hidden = dynamics._attend(token, self.layers, bias)[:, 0]
        params = dynamics.prior_net(hidden)
        stoch = dynamics.latent.sample(params, self.generator).float()
        self.state = {"hidden": hidden, "stoch": stoch, "params": params}
        self.states.append(self.state)
        self.trace.append(dynamics.features(self.state))


def _windows(x: Tensor, size: int) -> Tensor:
    """The last `size` entries at each step: (B,size+T,...) -> (B,T,size,...), without a copy."""
    return x.unfold(1, size, 1)[:, 1:].movedim(-1, 2)


def _where(condition: Tensor, value: float, x: Tensor) -> Tensor:
    """x (B,T,...) or (B,...), replaced where a condition (B,T) or (B,) holds."""
    wide = condition.view(*condition.shape, *[1] * (x.dim() - condition.dim()))
    return torch.where(wide, value, x)
