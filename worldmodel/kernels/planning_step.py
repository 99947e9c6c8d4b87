"""A dream's step and a head's answer in one call each, where nobody wants gradients and the
processor multiplies bf16.

Weights are packed first; inside `fixed_weights()`, where no weight changes, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldmodel.kernels.c_library import call, library

BF16 = torch.bfloat16
WIDE = 32  # outputs that a packed matrix keeps together

# what was made of modules' weights, while they are fixed
_kept: dict[int, tuple[object, Any]] | None = None


@contextlib.contextmanager
def fixed_weights() -> Iterator[None]:
    """No weight changes in here, so that what is made of them is made once."""
    global _kept
    before, _kept = _kept, _kept if _kept is not None else {}
    try:
        yield
    finally:
        _kept = before


def once(owner: object, make: Callable[[], Any]) -> Any:
    """What `make` gives, made anew unless the weights are fixed."""
    if _kept is None:
        return make()
    if id(owner) not in _kept:
        _kept[id(owner)] = owner, make()
    return _kept[id(owner)][1]


def here() -> bool:
    """Whether this machine can."""
    return library() is not None and hasattr(library(), "dream_step")


def packed(weight: Tensor) -> Tensor:
    """A matrix (M,K), K made even, in the order that the C half multiplies by."""
    (m, k), wide = weight.shape, -(-weight.shape[0] // WIDE)
    full = torch.zeros(wide * WIDE, k + k % 2, dtype=BF16)
    full[:m, :k] = weight.detach()
    return full.view(wide, WIDE, -1, 2).transpose(1, 2).contiguous()


def padded(vector: Tensor) -> Tensor:
    """(...,M) in fp32, M filled up with zeros."""
    return nn.functional.pad(vector.detach().float(), (0, -vector.shape[-1] % WIDE)).contiguous()


class Step:
    """The transition and the prior of an RSSM, packed."""

    def __init__(self, rssm):
        gru, prior = rssm.gru, rssm.prior_net
        gates = [packed(w) for w in gru.gates.weight.chunk(3)]
        self.actions = rssm.from_action.in_features
        self.hidden, self.deter, self.latent = rssm.from_action.out_features, gru.size, rssm.latent
        self.count, self.eps = rssm.latent.num_params, gru.norm.eps
        self.weights = (
            packed(rssm.from_action.weight),
            padded(rssm.from_action.bias),
            packed(rssm.from_stoch.weight),
            padded(rssm.input_norm.weight),
            torch.cat(gates),
            padded(gru.gates.bias.view(3, -1)),
            padded(gru.norm.weight.view(3, -1)),
            packed(prior.hidden[0].weight),
            padded(prior.norms[0].weight),
            packed(prior.out.weight),
            padded(prior.out.bias),
        )

    @staticmethod
    def can(rssm) -> bool:
        """Whether the sizes suit: pairs of inputs go together."""
        return here() and not any(
            x % 2 for x in (rssm.from_action.out_features, rssm.gru.size, rssm.latent.size)
        )

    def go(
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
        normal = self.latent.normal
        noise = torch.randn(n, self.latent.size, generator=generator) if normal else None
        params = None if normal else torch.empty(n, self.count, dtype=BF16)
        sizes = n, row.stride(0), even, self.latent.size, self.hidden, self.deter, self.count
        both = self.eps, self.latent.min_std if normal else 0.0
        call(
            "dream_step",
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
        if params is not None:
            self.latent.draw_into(params, following[:, self.hidden + self.deter :], generator)


class Reader:
    """An MLP, packed."""

    def __init__(self, net):
        self.exact = type(net.out) is not nn.Linear
        self.units, self.layers = net.out.in_features, len(net.hidden)
        self.inputs, self.outputs, self.eps = (
            net.hidden[0].in_features,
            net.out.out_features,
            net.norms[0].eps,
        )
        self.first = packed(net.hidden[0].weight)
        self.rest = (
            torch.cat([packed(layer.weight) for layer in net.hidden[1:]])
            if self.layers > 1
            else None
        )
        self.norms = padded(torch.stack([norm.weight for norm in net.norms]))
        self.fine = padded(net.out.weight) if self.exact else None
        self.last = None if self.exact else packed(net.out.weight)
        self.bias = padded(net.out.bias)

    @staticmethod
    def can(net, x: Tensor) -> bool:
        """Whether this is a question without gradients, asked again and again of the same weights,
        in fitting sizes.
        """
        fits = (
            x.dtype == BF16
            and x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and _kept is not None
        )
        return (
            fits
            and here()
            and len(net.hidden) > 0
            and not (x.shape[-1] % 2 or net.out.in_features % 2)
        )

    def read(self, x: Tensor) -> Tensor:
        """(...,K) to (...,outputs), in fp32 where the MLP's output is exact."""
        rows = x.reshape(-1, self.inputs)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        out = torch.empty(*x.shape[:-1], self.outputs, dtype=torch.float32 if self.exact else BF16)
        both = (out, None) if self.exact else (None, out)
        weights = self.first, self.rest, self.norms, self.fine, self.last, self.bias
        sizes = len(rows), rows.stride(0), self.inputs, self.layers, self.units, self.outputs
        call("read_head", rows, *both, *weights, *sizes, self.eps)
        return out


def read(net, x: Tensor) -> Tensor | None:
    """An MLP's output for (...,K)."""
    if not Reader.can(net, x):
        return None
    return cast(Reader, once(net, lambda: Reader(net))).read(x)


def read_side_by_side(nets: Sequence, x: Tensor) -> list[Tensor] | None:
    """Several MLPs' outputs, one by one, since each takes a single call."""
    if not all(Reader.can(net, x) for net in nets):
        return None
    return [net(x) for net in nets]
