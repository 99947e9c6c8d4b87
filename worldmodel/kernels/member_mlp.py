"""The networks of an ensemble's members in one call, and an imagined step of theirs, in fp32
without gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.kernels.c_library import call, load_library
from worldmodel.kernels.planning_step import keep_while_fixed

WIDE = 16  # outputs that a packed matrix keeps together
MANY = 64  # rows of a member below which packing costs more than it saves
SLOPE = 0.01  # of leaky ReLU below zero


class PackedMembers:
    """The weights of a `MemberMLP`, packed for the C half."""

    def __init__(self, net: Any):
        layers = [*net.hidden, net.out]
        parts, inputs = [], layers[0].weight.shape[1]
        for layer in layers:
            weight, bias = layer.weight.detach(), layer.bias.detach()
            wide = F.pad(weight, (0, -weight.shape[2] % WIDE, 0, inputs - weight.shape[1]))
            blocks = wide.unflatten(2, (-1, WIDE)).transpose(1, 2)
            parts += [blocks.flatten(1), F.pad(bias, (0, -bias.shape[2] % WIDE)).flatten(1)]
            inputs = wide.shape[2]
        self.weights = torch.cat(parts, 1)
        self.outputs, self.padded = net.out.weight.shape[2], inputs
        units = -(-net.out.weight.shape[1] // WIDE) * WIDE
        self.shape = len(net.hidden), units, self.padded, int(net.activation == "silu")

    @staticmethod
    def supports(net: Any, x: Tensor) -> bool:
        """Whether no gradients are wanted and the C half has these layers."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32
        quiet = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        large = x.shape[1] >= MANY and len(net.hidden) > 0 and not len(net.scales)
        return plain and quiet and large and hasattr(load_library(), "run_members")

    def run(self, x: Tensor) -> Tensor:
        """(K,N,inputs) to (K,N,outputs)."""
        members, rows, inputs = x.shape
        y = torch.empty(members, rows, self.padded)
        sizes = members, rows, inputs, *self.shape
        call("run_members", x.contiguous(), self.weights, y, *sizes, SLOPE)
        return y[..., : self.outputs]


class MemberRollout:
    """`dynamics.Rollout` of vectors without gradients; each member has an equal run of rows."""

    def __init__(
        self, dynamics: Any, vector: Tensor, steps: int, generator: torch.Generator | None
    ):
        self.dynamics, self.generator, self.done = dynamics, generator, 0
        self.vectors = torch.empty(steps + 1, *vector.shape)
        self.vectors[0] = vector
        self.packed = keep_while_fixed(dynamics.net, lambda: PackedMembers(dynamics.net))
        self.scales = torch.stack([dynamics.mean, dynamics.std.clamp(min=1e-6), dynamics.scale])

    @property
    def features(self) -> Tensor:
        return self._read(self.vectors[self.done])

    def step(self, action: Tensor) -> None:
        settings, members = self.dynamics.settings, self.dynamics.members
        now, after = self.vectors[self.done], self.vectors[self.done + 1]
        noise = None
        if settings.noise == "gaussian":
            noise = torch.randn(now.shape, generator=self.generator)
        read = now, action.float().contiguous(), noise, self.packed.weights, self.scales
        sizes = members, len(now) // members, now.shape[1], action.shape[1], *self.packed.shape
        factors = SLOPE, *self.dynamics.log_var_bounds
        call("imagine_members", *read, after, *sizes, int(settings.residual), *factors)
        self.done += 1

    def features_before(self) -> Tensor:
        return self._read(self.vectors[: self.done])

    def features_after(self) -> Tensor:
        return self._read(self.vectors[1 : self.done + 1])

    def _read(self, vectors: Tensor) -> Tensor:
        return self.dynamics.features({"vector": vectors})


def start_rollout(
    dynamics: Any, state: dict[str, Tensor], steps: int, generator: torch.Generator | None = None
) -> Any | None:
    """`MLPDynamics.start_rollout`, where each member has an equal run of rows; else None."""
    members, vector = dynamics.members, state["vector"]
    if vector.dim() != 2 or len(vector) % members or "redraw" in state:
        return None
    if not PackedMembers.supports(dynamics.net, vector.view(members, -1, vector.shape[1])):
        return None
    every = torch.arange(members).repeat_interleave(len(vector) // members)
    if members > 1 and not ("member" in state and torch.equal(state["member"].long(), every)):
        return None
    return MemberRollout(dynamics, vector, steps, generator)


def run_members(net: Any, x: Tensor) -> Tensor | None:
    """A `MemberMLP`'s output for rows (K,N,inputs)."""
    if not PackedMembers.supports(net, x):
        return None
    return keep_while_fixed(net, lambda: PackedMembers(net)).run(x)
