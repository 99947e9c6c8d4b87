"""The networks of an ensemble's members in one call, in fp32 without gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.kernels.c_library import call, load_library
from worldmodel.kernels.planning_step import keep_while_fixed

WIDE = 16  # outputs that a packed matrix keeps together
MANY = 64  # rows of a member below which packing costs more than it saves


class PackedMembers:
    """The weights of a `MemberMLP`, packed for the C half."""

    def __init__(self, net: Any):
        layers = [*net.hidden, net.out]
        self.layers, self.activation = len(net.hidden), net.activation
        parts, inputs = [], layers[0].weight.shape[1]
        for layer in layers:
            weight, bias = layer.weight.detach(), layer.bias.detach()
            wide = F.pad(weight, (0, -weight.shape[2] % WIDE, 0, inputs - weight.shape[1]))
            blocks = wide.unflatten(2, (-1, WIDE)).transpose(1, 2)
            parts += [blocks.flatten(1), F.pad(bias, (0, -bias.shape[2] % WIDE)).flatten(1)]
            inputs = wide.shape[2]
        self.weights = torch.cat(parts, 1)
        self.units = -(-net.out.weight.shape[1] // WIDE) * WIDE
        self.outputs, self.padded = net.out.weight.shape[2], inputs

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
        sizes = members, rows, inputs, self.layers, self.units, self.padded
        silu = int(self.activation == "silu")
        call("run_members", x.contiguous(), self.weights, y, *sizes, silu, 0.01)
        return y[..., : self.outputs]


def run_members(net: Any, x: Tensor) -> Tensor | None:
    """A `MemberMLP`'s output for rows (K,N,inputs)."""
    if not PackedMembers.supports(net, x):
        return None
    return keep_while_fixed(net, lambda: PackedMembers(net)).run(x)
