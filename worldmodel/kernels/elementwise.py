"""The steps between matrix products, each in one pass over memory on a CPU, in bf16 or fp32.

Every function replaces the equation of model/ that it decorates, and returns None where the
equation has to compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from worldmodel.kernels import is_left_to_torch
from worldmodel.kernels.c_library import BLOCKS, call, load_library, split_by_precision

T = TypeVar("T")
SUFFIXES = {torch.bfloat16: "bf16", torch.float32: "fp32"}  # of the C functions, by precision


def norm_silu(x: Tensor, norm: nn.RMSNorm, fine: bool = False) -> Tensor | None:
    if not accepts(x):
        return None
    return _NormSilu.apply(x, norm.weight, norm.eps, fine)


def silu(x: Tensor) -> Tensor | None:
    return _Silu.apply(x) if accepts(x) else None


def gru_cell(gates: Tensor, norm: nn.RMSNorm, state: Tensor) -> Tensor | None:
    if not accepts(gates):
        return None
    return _Gru.apply(gates, norm.weight, norm.eps, state)


def pick_one_hot(logits: Tensor, uniform: Tensor, unimix: float) -> Tensor | None:
    return _Draw.apply(logits, uniform, unimix) if accepts(logits) else None


def two_hot_mean(read: Tensor, bins: Tensor) -> Tensor | None:
    return _TwoHotMean.apply(read, bins) if accepts(read) else None


def two_hot_loss(read: Tensor, low: Tensor, share: Tensor) -> Tensor | None:
    return _TwoHotLoss.apply(read, low, share) if accepts(read) else None


def centre_image(image: Tensor, backdrop: Tensor, dtype: torch.dtype) -> Tensor | None:
    if image.dtype != torch.uint8 or dtype not in SUFFIXES or not _has_library_for(image):
        return None
    y, image = torch.empty_like(image, dtype=dtype), image.contiguous()
    count = backdrop.numel()
    call_step(
        "centre_image", dtype, image, backdrop.contiguous(), y, image.numel() // count, count
    )
    return y


def picture_error(mean: Tensor, image: Tensor, backdrop: Tensor) -> Tensor | None:
    if image.dtype != torch.uint8 or not accepts(mean):
        return None
    return _PictureError.apply(mean, image, backdrop)


def interleave_phases(phases: Tensor, silu: bool) -> Tensor | None:
    return _InterleavePhases.apply(phases, silu) if accepts(phases) else None


def accepts(x: Tensor) -> bool:
    """Whether the C functions work on tensors like this one."""
    return x.dtype in SUFFIXES and _has_library_for(x)


def _has_library_for(x: Tensor) -> bool:
    if x.device.type != "cpu" or is_left_to_torch.get() or torch.compiler.is_compiling():
        return False
    # The stand-ins of torch.export have no numbers.
    return type(x) in (Tensor, nn.Parameter) and load_library() is not None


def call_step(step: str, precision: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Call the C function of a step that takes and gives numbers of this precision."""
    call(f"{step}_{SUFFIXES[precision]}", *arguments)


def refuse_second_gradients(backward: Callable[..., T]) -> Callable[..., T]:
    """Refuse to make a graph of a backward pass: the C functions would be missing in it.

    `once_differentiable` refuses only where the incoming gradient has a graph, which that of a sum
    has not.
    """

    @functools.wraps(backward)
    def run_checked(*args: Any) -> T:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "gradients of the gradients of C steps: compute the forward pass within "
                "worldmodel.kernels.leave_to_torch()"
            )
        return backward(*args)

    return run_checked


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, fine: bool) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x, dtype=torch.float32 if fine else x.dtype)
        n, d = x.numel() // x.shape[-1], x.shape[-1]
        scale = weight.new_empty(n)
        parts = split_by_precision(y, x.dtype)
        call_step("norm_silu", x.dtype, x, weight, *parts, scale, n, d, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        x, weight, scale = ctx.saved_tensors
        grad, back = grads[0].contiguous(), torch.empty_like(x)
        n, d = len(scale), x.shape[-1]
        sums = weight.new_empty(BLOCKS, d) if ctx.needs_input_grad[1] else None
        parts = split_by_precision(grad, x.dtype)
        call_step("norm_silu_back", x.dtype, *parts, x, weight, scale, back, sums, n, d, BLOCKS)
        return back, None if sums is None else sums.sum(0), None, None


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        call_step("silu", x.dtype, x, y, x.numel())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        (x,) = ctx.saved_tensors
        back = torch.empty_like(x)
        call_step("silu_back", x.dtype, grads[0].contiguous(), x, back, x.numel())
        return back


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, eps: float, state: Tensor) -> Tensor:
        gates, state = gates.contiguous(), state.float().contiguous()
        y, n, d = torch.empty_like(state), state.numel() // state.shape[-1], state.shape[-1]
        scale = weight.new_empty(n)
        call_step("gru", gates.dtype, gates, weight, state, y, scale, n, d, eps)
        ctx.save_for_backward(gates, weight, state, scale)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        gates, weight, state, scale = ctx.saved_tensors
        back, old = torch.empty_like(gates), torch.empty_like(state)
        n, d = len(scale), state.shape[-1]
        sums = weight.new_empty(BLOCKS, 3 * d) if ctx.needs_input_grad[1] else None
        call_step(
            "gru_back",
            gates.dtype,
            grads[0].contiguous(),
            gates,
            weight,
            state,
            scale,
            back,
            old,
            sums,
            n,
            d,
            BLOCKS,
        )
        return back, None if sums is None else sums.sum(0), None, old


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, uniform: Tensor, unimix: float) -> Tensor:
        logits = logits.contiguous()
        y, probs = torch.empty_like(logits), torch.empty_like(logits, dtype=torch.float32)
        n, k = uniform.numel(), logits.shape[-1]
        call_step("draw", logits.dtype, logits, uniform.contiguous(), y, probs, n, k, 1, k, unimix)
        ctx.save_for_backward(probs)
        ctx.unimix, ctx.precision = unimix, logits.dtype
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        (probs,) = ctx.saved_tensors
        grad = grads[0].to(ctx.precision).contiguous()
        back, k = torch.empty_like(grad), probs.shape[-1]
        call_step("draw_back", ctx.precision, grad, probs, back, probs.numel() // k, k, ctx.unimix)
        return back, None, None


class _TwoHotMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, read: Tensor, bins: Tensor) -> Tensor:
        read, y = read.contiguous(), bins.new_empty(read.shape[:-1])
        call_step("twohot_mean", read.dtype, read, bins, y, y.numel(), len(bins))
        ctx.save_for_backward(read, bins, y)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        read, bins, y = ctx.saved_tensors
        back = torch.empty_like(read)
        grad = grads[0].contiguous()
        call_step("twohot_mean_back", read.dtype, grad, read, bins, y, back, y.numel(), len(bins))
        return back, None


class _TwoHotLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, read: Tensor, low: Tensor, share: Tensor) -> Tensor:
        read, low, share = read.contiguous(), low.contiguous(), share.contiguous()
        y = torch.empty_like(share)
        call_step("twohot_loss", read.dtype, read, low, share, y, y.numel(), read.shape[-1])
        ctx.save_for_backward(read, low, share)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        read, low, share = ctx.saved_tensors
        back = torch.empty_like(read)
        call_step(
            "twohot_loss_back",
            read.dtype,
            grads[0].contiguous(),
            read,
            low,
            share,
            back,
            share.numel(),
            read.shape[-1],
        )
        return back, None, None


class _PictureError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean: Tensor, image: Tensor, backdrop: Tensor) -> Tensor:
        mean, image, backdrop = mean.contiguous(), image.contiguous(), backdrop.contiguous()
        gap, y = torch.empty_like(mean), backdrop.new_empty(len(mean))
        n, d = len(mean), backdrop.numel()
        call_step("picture_error", mean.dtype, mean, image, backdrop, gap, y, n, d)
        ctx.save_for_backward(gap)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        (gap,) = ctx.saved_tensors
        back = torch.empty_like(gap)
        n, d = len(gap), math.prod(gap.shape[1:])
        call_step("picture_error_back", gap.dtype, grads[0].contiguous(), gap, back, n, d)
        return back, None, None


class _InterleavePhases(torch.autograd.Function):
    @staticmethod
    def forward(ctx, phases: Tensor, silu: bool) -> Tensor:
        phases = phases.contiguous()
        n, rows, columns, channels = phases.shape
        ctx.sizes = (n, rows - 1, columns - 1, channels // 4, int(silu))
        y = phases.new_empty(n, 2 * rows - 2, 2 * columns - 2, channels // 4)
        call_step("interleave_phases", phases.dtype, phases, y, *ctx.sizes)
        ctx.save_for_backward(phases)
        return y

    @staticmethod
    @refuse_second_gradients
    def backward(ctx, *grads: Tensor):
        (phases,) = ctx.saved_tensors
        back = torch.empty_like(phases)
        grad = grads[0].contiguous()
        call_step("interleave_phases_back", phases.dtype, grad, phases, back, *ctx.sizes)
        return back, None
