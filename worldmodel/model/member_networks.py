"""Networks of an ensemble's members, batched: each layer is one matrix product for all members.

K members differ by their initial weights. Rows of a batch may all go through every member, or each
through one of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.kernels import member_mlp, replaceable_by


class MemberLinear(nn.Module):
    """A linear layer for each of K members: (K,N,inputs) -> (K,N,outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        std = 1 / (2 * math.sqrt(inputs))  # PETS
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if len(x) != len(weight):  # one network, masked in several ways
            return x @ weight + bias
        return torch.baddbmm(bias, x, weight)


class MemberMLP(nn.Module):
    """An MLP for each of K members, with RMSNorm if `norm`: (K,N,inputs) -> (K,N,outputs)."""

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        layers: int,
        units: int,
        norm: bool = False,
        activation: str = "silu",
    ):
        super().__init__()
        self.members, self.activation = members, activation
        sizes = [inputs] + [units] * layers
        self.hidden = nn.ModuleList(
            MemberLinear(members, a, b) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.scales = nn.ParameterList(
            torch.ones(members, 1, units) for _ in range(layers if norm else 0)
        )
        self.out = MemberLinear(members, sizes[-1], outputs)

    @replaceable_by(member_mlp.run_members)
    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)

    def run_masked(self, x: Tensor, masks: Tensor) -> Tensor:
        """Multiply each hidden layer by masks (K or 1,N or 1,units): dropout. A single member runs
        the rows of K masks.
        """
        return self._run(x, masks)

    def _run(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            if len(self.scales):
                x = F.rms_norm(x.float(), x.shape[-1:], eps=1e-4) * self.scales[i]
            x = F.silu(x) if self.activation == "silu" else F.leaky_relu(x)
            x = x if masks is None else x * masks
        return self.out(x)

    def run_all(self, x: Tensor) -> Tensor:
        """Every row through every member: (...,inputs) -> (...,K,outputs)."""
        rows = x.flatten(0, -2).expand(self.members, -1, -1)
        return self(rows).transpose(0, 1).unflatten(0, x.shape[:-1])

    def run_each(self, x: Tensor, member: Tensor) -> Tensor:
        """Each row through its own member: (N,inputs), (N,) -> (N,outputs)."""
        if self.members == 1:
            return self(x.unsqueeze(0)).squeeze(0)
        every = torch.arange(self.members, device=x.device)
        if torch.equal(member, every.repeat_interleave(len(x) // self.members)):
            return self(x.unflatten(0, (self.members, -1))).flatten(0, 1)
        # Rows in the order of their members, each member's filled up to the longest.
        counts = torch.bincount(member, minlength=self.members)
        order = member.argsort(stable=True)
        width, ordered = int(counts.max()), member[order]
        first = counts.cumsum(0) - counts
        place = ordered * width + torch.arange(len(x), device=x.device) - first[ordered]
        filled = x.new_zeros(self.members * width, x.shape[-1])
        filled = filled.index_copy(0, place, x[order])
        found = self(filled.view(self.members, width, -1)).flatten(0, 1)
        return torch.empty_like(found[: len(x)]).index_copy(0, order, found[place])
