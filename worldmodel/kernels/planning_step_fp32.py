"""An imagined step and a head's output in one call each, without gradients, in fp32.

It is what planning_step.py is in bf16, for any processor with a C compiler.
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
    WIDE,
    RowRollout,
    are_fixed,
    keep_while_fixed,
    pack_in_blocks,
)

MANY = 64  # rows below which packing costs more than it saves
FEW = 4  # outputs that are read off one by one; more come in blocks


def is_wanted(x: Tensor) -> bool:
    """Whether x is of many rows in fp32 on a CPU, and no gradients are wanted."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu"
    quiet = not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
    return plain and quiet and x.numel() // max(1, x.shape[-1]) >= MANY


def fill_blocks(vector: Tensor) -> Tensor:
    """(...,M), with zeros up to whole blocks."""
    return nn.functional.pad(vector.detach(), (0, -vector.shape[-1] % WIDE)).contiguous()


def pack_layer(weight: Tensor, bias: Tensor) -> list[Tensor]:
    """A matrix (M,K) in blocks of outputs, and its bias (M,), filled up with zeros."""
    return pack_in_blocks(weight, bias, [WIDE] * -(-len(weight) // WIDE), 1)


class PackedStep:
    """The transition and the prior of an RSSM, packed."""

    def __init__(self, rssm: Any):
        gru, prior = rssm.gru, rssm.prior_net
        self.actions = rssm.from_action.in_features
        self.hidden, self.deter, self.latent = rssm.from_action.out_features, gru.size, rssm.latent
        self.count, self.eps = rssm.latent.num_params, gru.norm.eps
        gates = [
            pack_layer(w, b)
            for w, b in zip(gru.gates.weight.chunk(3), gru.gates.bias.chunk(3), strict=True)
        ]
        both = torch.cat([rssm.from_stoch.weight, rssm.from_action.weight], 1)
        no_bias = torch.zeros(len(prior.hidden[0].weight))
        to_prior, no_bias = pack_layer(prior.hidden[0].weight, no_bias)
        self.weights = (
            *pack_layer(both, rssm.from_action.bias),
            fill_blocks(rssm.input_norm.weight),
            *(torch.cat(parts) for parts in zip(*gates, strict=True)),
            fill_blocks(gru.norm.weight.view(3, -1)),
            to_prior,
            no_bias,
            fill_blocks(prior.norms[0].weight),
            *pack_layer(prior.out.weight, prior.out.bias),
        )

    @staticmethod
    def supports(rssm: Any) -> bool:
        """Whether the C half has this cell and latent."""
        plain = rssm.transition == "rssm" and rssm.gru.blocks == 1 and rssm.members == 1
        known = rssm.latent.dist_keys in (NORMAL, CATEGORICAL, NOISELESS)
        return plain and known and hasattr(load_library(), "imagine_step_fp32")

    def run(
        self, row: Tensor, action: Tensor, following: Tensor, generator: torch.Generator | None
    ) -> None:
        """From rows (N,[input|deter|stoch]) and actions (N,A): the next rows but their inputs."""
        n, latent = len(row), self.latent
        normal = latent.dist_keys == NORMAL
        noise = torch.randn(n, latent.size, generator=generator) if normal else None
        params = None if normal else torch.empty(n, self.count)
        sizes = n, row.stride(0), self.actions, latent.size, self.hidden, self.deter, self.count
        both = self.eps, latent.min_std if normal else 0.0
        given = row, action.float().contiguous(), following, noise, params
        call("imagine_step_fp32", *given, *self.weights, *sizes, *both)
        if params is not None:
            sample = latent.flat(latent.sample(params, generator))
            following[:, self.hidden + self.deter :] = sample


class PlanningRollout(RowRollout):
    """`dynamics.Rollout` without gradients."""

    def __init__(
        self, rssm: Any, state: dict[str, Tensor], steps: int, generator: torch.Generator | None
    ):
        self.generator, self.done, self.hidden = generator, 0, rssm.from_action.out_features
        features = torch.cat([state["deter"], rssm.latent.flat(state["stoch"])], -1)
        self.rows = torch.empty(steps + 1, len(features), self.hidden + features.shape[1])
        self.rows[0, :, self.hidden :] = features
        self.packed = keep_while_fixed(rssm.gru, lambda: PackedStep(rssm), "fp32")

    def step(self, action: Tensor) -> None:
        now, after = self.rows[self.done], self.rows[self.done + 1]
        self.packed.run(now, action, after, self.generator)
        self.done += 1


def start_rollout(
    rssm: Any, state: dict[str, Tensor], steps: int, generator: torch.Generator | None = None
) -> Any | None:
    """`RSSM.start_rollout` in fp32, of many rows without gradients; else None."""
    if not is_wanted(state["deter"]) or state["deter"].dim() != 2 or not PackedStep.supports(rssm):
        return None
    return PlanningRollout(rssm, state, steps, generator)


class PackedMLP:
    """An MLP, packed."""

    def __init__(self, net: Any):
        layers, out = [layer.weight for layer in net.hidden], net.out
        self.units, self.layers = out.in_features, len(layers)
        self.inputs, self.outputs = net.hidden[0].in_features, out.out_features
        self.eps = net.norms[0].eps
        zeros = torch.zeros(self.units)
        packed = [pack_layer(weight, zeros)[0] for weight in layers]
        last, bias = pack_layer(out.weight, out.bias)
        few = self.outputs <= FEW
        self.weights = (
            packed[0],
            torch.cat(packed[1:]) if packed[1:] else None,
            fill_blocks(torch.stack([norm.weight for norm in net.norms])),
            fill_blocks(out.weight) if few else None,
            None if few else last,
            bias,
            fill_blocks(zeros),
        )

    def run(self, x: Tensor) -> Tensor:
        """(...,K) to (...,outputs)."""
        rows = x.reshape(-1, self.inputs)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        out = torch.empty(*x.shape[:-1], self.outputs)
        sizes = len(rows), rows.stride(0), self.inputs, self.layers, self.units, self.outputs
        call("run_mlp_fp32", rows, out, *self.weights, *sizes, self.eps)
        return out


def is_packed(net: Any, x: Tensor) -> bool:
    """Whether the C half runs an MLP on rows (...,K), because weights are fixed."""
    wanted = is_wanted(x) and are_fixed() and len(net.hidden) > 0
    return wanted and hasattr(load_library(), "run_mlp_fp32")


def run_mlp(net: Any, x: Tensor) -> Tensor | None:
    """An MLP's output for many rows (...,K), while weights are fixed; else None."""
    if not is_packed(net, x):
        return None
    return cast(PackedMLP, keep_while_fixed(net, lambda: PackedMLP(net), "fp32")).run(x)


def run_side_by_side(nets: Sequence[Any], x: Tensor) -> list[Tensor] | None:
    """Several MLPs' outputs, one by one, since each takes a single call."""
    return [net(x) for net in nets] if all(is_packed(net, x) for net in nets) else None
