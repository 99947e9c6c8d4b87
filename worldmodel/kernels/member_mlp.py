"""The networks of an ensemble's members in one call, and an imagined step of theirs, without
gradients: in fp32, or in bf16 on processors that multiply it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from worldmodel.kernels.c_library import call, load_library, split_by_precision
from worldmodel.kernels.packing import WIDE, keep_while_fixed, pack_in_blocks
from worldmodel.kernels.planning_step import BF16, is_available

LOW_WIDE = 32  # outputs that a matrix packed in bf16 keeps together
MANY = 64  # rows of a member below which packing costs more than it saves
SLOPE = 0.01  # of leaky ReLU below zero


def choose_widths(outputs: int, low: bool) -> list[int]:
    """The widths of a matrix's blocks, as in member_mlp.c: a rest takes a smaller one in bf16."""
    if not low:
        return [WIDE] * -(-outputs // WIDE)
    rest = outputs % LOW_WIDE
    return [LOW_WIDE] * (outputs // LOW_WIDE) + [w for w in (8, 16, LOW_WIDE) if w >= rest > 0][:1]


class PackedMembers:
    """The weights of a `MemberMLP`, packed for the C half."""

    def __init__(self, net: Any):
        layers, self.low = [*net.hidden, net.out], is_bf16()
        matrices, biases = [], []
        for member in range(net.members):
            for layer in layers:
                weight, bias = layer.weight[member].T, layer.bias[member, 0]
                widths = choose_widths(len(weight), self.low)
                matrix, bias = pack_in_blocks(weight, bias, widths, 2 if self.low else 1)
                matrices.append(matrix.to(BF16) if self.low else matrix)
                biases.append(bias)
        low, fine = split_by_precision(torch.cat(matrices))
        self.weights = fine, low, torch.cat(biases)
        self.outputs, units = net.out.weight.shape[2], net.out.weight.shape[1]
        self.shape = len(net.hidden), units, self.outputs, int(net.activation == "silu")

    @staticmethod
    def supports(net: Any, x: Tensor) -> bool:
        """Whether no gradients are wanted and the C half has these layers."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32
        quiet = not torch.is_grad_enabled() and (not torch.is_autocast_enabled("cpu") or is_bf16())
        large = x.shape[1] >= MANY and len(net.hidden) > 0 and not len(net.scales)
        return plain and quiet and large and hasattr(load_library(), "run_members")

    def run(self, x: Tensor) -> Tensor:
        """(K,N,inputs) to (K,N,outputs)."""
        members, rows, inputs = x.shape
        y = torch.empty(members, rows, self.outputs)
        sizes = members, rows, inputs, *self.shape
        call("run_members", x.contiguous(), *self.weights, y, *sizes, SLOPE)
        return y


def is_bf16() -> bool:
    """Whether products are wanted in bf16 and the C half has them."""
    wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == BF16
    return wanted and is_available()


def pack_members(net: Any) -> PackedMembers:
    """The network's weights in the precision wanted now, kept while they are fixed."""
    kept = cast(PackedMembers, keep_while_fixed(net, lambda: PackedMembers(net)))
    return kept if kept.low == is_bf16() else PackedMembers(net)


class MemberRollout:
    """`dynamics.Rollout` of vectors without gradients; each member has an equal run of rows."""

    def __init__(
        self, dynamics: Any, vector: Tensor, steps: int, generator: torch.Generator | None
    ):
        self.dynamics, self.generator, self.done = dynamics, generator, 0
        self.vectors = torch.empty(steps + 1, *vector.shape)
        self.vectors[0] = vector
        self.packed = pack_members(dynamics.net)
        self.scales = torch.stack([dynamics.mean, dynamics.spread, dynamics.scale])

    @property
    def features(self) -> Tensor:
        return self._read(self.vectors[self.done])

    def step(self, action: Tensor) -> None:
        settings, members = self.dynamics.settings, self.dynamics.members
        now, after = self.vectors[self.done], self.vectors[self.done + 1]
        noise = None
        if settings.noise == "gaussian":
            noise = torch.randn(now.shape, generator=self.generator)
        read = now, action.float().contiguous(), noise, *self.packed.weights, self.scales
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
    return pack_members(net).run(x)
