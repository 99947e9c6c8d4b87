"""An imagined step and a head's output in one call each, without gradients, on processors that
multiply bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldmodel.kernels.c_library import call, load_library
from worldmodel.kernels.packing import (
    CATEGORICAL,
    NOISELESS,
    NORMAL,
    RowRollout,
    are_fixed,
    keep_while_fixed,
)

BF16 = torch.bfloat16
WIDE = 32  # outputs that a packed matrix keeps together


def is_available() -> bool:
    """Whether the library has these functions."""
    return load_library() is not None and hasattr(load_library(), "imagine_step")


def pack_matrix(weight: Tensor) -> Tensor:
    """A matrix (M,K), K made even, in the order that the C half multiplies by."""
    (m, k), wide = weight.shape, -(-weight.shape[0] // WIDE)
    full = torch.zeros(wide * WIDE, k + k % 2, dtype=BF16)
    full[:m, :k] = weight.detach()
    return full.view(wide, WIDE, -1, 2).transpose(1, 2).contiguous()


def pad_vector(vector: Tensor) -> Tensor:
    """(...,M) in fp32, M filled up with zeros."""
    return nn.functional.pad(vector.detach().float(), (0, -vector.shape[-1] % WIDE)).contiguous()


class PackedStep:
    """The transition and the prior of an RSSM, packed."""

    def __init__(self, rssm):
        gru, prior = rssm.gru, rssm.prior_net
        gates = [pack_matrix(w) for w in gru.gates.weight.chunk(3)]
        self.actions = rssm.from_action.in_features
        self.hidden, self.deter, self.latent = rssm.from_action.out_features, gru.size, rssm.latent
        self.count, self.eps = rssm.latent.num_params, gru.norm.eps
        self.weights = (
            pack_matrix(rssm.from_action.weight),
            pad_vector(rssm.from_action.bias),
            pack_matrix(rssm.from_stoch.weight),
            pad_vector(rssm.input_norm.weight),
            torch.cat(gates),
            pad_vector(gru.gates.bias.view(3, -1)),
            pad_vector(gru.norm.weight.view(3, -1)),
            pack_matrix(prior.hidden[0].weight),
            pad_vector(prior.norms[0].weight),
            pack_matrix(prior.out.weight),
            pad_vector(prior.out.bias),
        )

    @staticmethod
    def supports(rssm) -> bool:
        """Whether the C half has this cell and latent, in even sizes: inputs go in pairs."""
        if not is_available() or rssm.transition != "rssm" or rssm.gru.blocks != 1:
            return False
        if rssm.members != 1:
            return False
        if rssm.latent.dist_keys not in (NORMAL, CATEGORICAL, NOISELESS):
            return False
        sizes = rssm.from_action.out_features, rssm.gru.size, rssm.latent.size
        return not any(size % 2 for size in sizes)

    def run(
        self,
        row: Tensor,
        action: Tensor,
        old: Tensor,
        following: Tensor,
        deter: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """From rows (N,[input|deter|stoch]), actions (N,A) and deter: the next deter, and the rest
        of the next rows.
        """
        n, even = len(row), self.actions + self.actions % 2
        given = (
            action
            if action.dtype == BF16 and even == self.actions
            else torch.zeros(n, even, dtype=BF16)
        )
        if given is not action:
            given[:, : self.actions] = action
        normal = self.latent.dist_keys == NORMAL
        noise = torch.randn(n, self.latent.size, generator=generator) if normal else None
        params = None if normal else torch.empty(n, self.count, dtype=BF16)
        sizes = n, row.stride(0), even, self.latent.size, self.hidden, self.deter, self.count
        both = self.eps, self.latent.min_std if normal else 0.0
        call(
            "imagine_step",
            row,
            given.contiguous(),
            old,
            following,
            deter,
            noise,
            params,
            *self.weights,
            *sizes,
            *both,
        )
        if params is None:
            return
        stoch = following[:, self.hidden + self.deter :]
        if self.latent.dist_keys == NOISELESS:
            stoch.copy_(params)
            return
        groups, classes = self.latent.shape
        uniform = torch.rand(n, groups, generator=generator)
        probs = torch.empty(n, groups, classes)
        call(
            "draw_bf16",
            params,
            uniform,
            stoch,
            probs,
            n * groups,
            classes,
            groups,
            stoch.stride(0),
            self.latent.unimix,
        )


class PlanningRollout(RowRollout):
    """`dynamics.Rollout` without gradients."""

    def __init__(
        self, rssm, state: dict[str, Tensor], steps: int, generator: torch.Generator | None
    ):
        self.generator, self.done, self.hidden = generator, 0, rssm.from_action.out_features
        n, deter = state["deter"].shape
        inner = self.hidden + deter
        self.rows = torch.empty(steps + 1, n, inner + rssm.latent.size, dtype=BF16)
        self.deter = torch.empty(steps + 1, n, deter)
        self.deter[0] = state["deter"]
        self.rows[0, :, self.hidden : inner] = state["deter"]
        self.rows[0, :, inner:] = rssm.latent.flat(state["stoch"])
        self.packed = keep_while_fixed(rssm.gru, lambda: PackedStep(rssm))

    def step(self, action: Tensor) -> None:
        t = self.done
        rows, deter = self.rows, self.deter
        self.packed.run(rows[t], action, deter[t], rows[t + 1], deter[t + 1], self.generator)
        self.done += 1


def start_rollout(
    rssm, state: dict[str, Tensor], steps: int, generator: torch.Generator | None = None
) -> Any | None:
    """`RSSM.start_rollout` in bf16 on a CPU, if no gradients are wanted; else None."""
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == BF16
    on_cpu = state["deter"].device.type == "cpu"
    if torch.is_grad_enabled() or not in_bf16 or not on_cpu or not PackedStep.supports(rssm):
        return None
    return PlanningRollout(rssm, state, steps, generator)


class PackedMLP:
    """An MLP, packed."""

    def __init__(self, net):
        self.exact = type(net.out) is not nn.Linear
        self.units, self.layers = net.out.in_features, len(net.hidden)
        self.inputs, self.outputs, self.eps = (
            net.hidden[0].in_features,
            net.out.out_features,
            net.norms[0].eps,
        )
        self.first = pack_matrix(net.hidden[0].weight)
        self.rest = (
            torch.cat([pack_matrix(layer.weight) for layer in net.hidden[1:]])
            if self.layers > 1
            else None
        )
        self.norms = pad_vector(torch.stack([norm.weight for norm in net.norms]))
        self.fine = pad_vector(net.out.weight) if self.exact else None
        self.last = None if self.exact else pack_matrix(net.out.weight)
        self.bias = pad_vector(net.out.bias)

    @staticmethod
    def supports(net, x: Tensor) -> bool:
        """Whether no gradients are wanted, weights are fixed, and sizes are even."""
        fits = (
            x.dtype == BF16
            and x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and are_fixed()
        )
        return (
            fits
            and is_available()
            and len(net.hidden) > 0
            and not (x.shape[-1] % 2 or net.out.in_features % 2)
        )

    def run(self, x: Tensor) -> Tensor:
        """(...,K) to (...,outputs), in fp32 where the MLP's output is exact."""
        rows = x.reshape(-1, self.inputs)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        out = torch.empty(*x.shape[:-1], self.outputs, dtype=torch.float32 if self.exact else BF16)
        both = (out, None) if self.exact else (None, out)
        weights = self.first, self.rest, self.norms, self.fine, self.last, self.bias
        sizes = len(rows), rows.stride(0), self.inputs, self.layers, self.units, self.outputs
        call("run_mlp", rows, *both, *weights, *sizes, self.eps)
        return out


def run_mlp(net, x: Tensor) -> Tensor | None:
    """An MLP's output for (...,K)."""
    if not PackedMLP.supports(net, x):
        return None
    return cast(PackedMLP, keep_while_fixed(net, lambda: PackedMLP(net))).run(x)


def run_side_by_side(nets: Sequence, x: Tensor) -> list[Tensor] | None:
    """Several MLPs' outputs, one by one, since each takes a single call."""
    if not all(PackedMLP.supports(net, x) for net in nets):
        return None
    return [net(x) for net in nets]
