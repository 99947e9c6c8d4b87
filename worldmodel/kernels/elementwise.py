"""The steps between matrix products, each in one pass over memory on a CPU in bf16.

Every function replaces the equation of model/ that it decorates, and returns None where the
equation has to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.kernels.c_library import BLOCKS, call, load_library, split_by_precision


def norm_silu(x: Tensor, norm: nn.RMSNorm, fine: bool = False) -> Tensor | None:
    if not accepts(x):
        return None
    return _NormSilu.apply(x, norm.weight, norm.eps, fine)


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
    if dtype != torch.bfloat16 or not _has_library_for(image):
        return None
    y, image = torch.empty_like(image, dtype=dtype), image.contiguous()
    count = backdrop.numel()
    call("centre_image", image, backdrop.contiguous(), y, image.numel() // count, count)
    return y


def picture_error(mean: Tensor, image: Tensor, backdrop: Tensor) -> Tensor | None:
    return _PictureError.apply(mean, image, backdrop) if accepts(mean) else None


def interleave_phases(phases: Tensor, silu: bool) -> Tensor | None:
    return _InterleavePhases.apply(phases, silu) if accepts(phases) else None


def accepts(x: Tensor) -> bool:
    """Whether the C functions work on tensors like this one."""
    return x.dtype == torch.bfloat16 and _has_library_for(x)


def _has_library_for(x: Tensor) -> bool:
    return x.device.type == "cpu" and load_library() is not None


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, fine: bool) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x, dtype=torch.float32 if fine else x.dtype)
        n, d = x.numel() // x.shape[-1], x.shape[-1]
        scale = weight.new_empty(n)
        call("norm_silu", x, weight, *split_by_precision(y), scale, n, d, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        x, weight, scale = ctx.saved_tensors
        grad, back = grads[0].contiguous(), torch.empty_like(x)
        n, d = len(scale), x.shape[-1]
        sums = weight.new_empty(BLOCKS, d) if ctx.needs_input_grad[1] else None
        call(
            "norm_silu_back", *split_by_precision(grad), x, weight, scale, back, sums, n, d, BLOCKS
        )
        return back, None if sums is None else sums.sum(0), None, None


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, eps: float, state: Tensor) -> Tensor:
        gates, state = gates.contiguous(), state.float().contiguous()
        y, n, d = torch.empty_like(state), state.numel() // state.shape[-1], state.shape[-1]
        scale = weight.new_empty(n)
        call("gru", gates, weight, state, y, scale, n, d, eps)
        ctx.save_for_backward(gates, weight, state, scale)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        gates, weight, state, scale = ctx.saved_tensors
        back, old = torch.empty_like(gates), torch.empty_like(state)
        n, d = len(scale), state.shape[-1]
        sums = weight.new_empty(BLOCKS, 3 * d) if ctx.needs_input_grad[1] else None
        call(
            "gru_back",
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
        call("draw", logits, uniform.contiguous(), y, probs, n, k, 1, k, unimix)
        ctx.save_for_backward(probs)
        ctx.unimix = unimix
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (probs,) = ctx.saved_tensors
        back = torch.empty_like(probs, dtype=torch.bfloat16)
        k = probs.shape[-1]
        call(
            "draw_back",
            grads[0].to(torch.bfloat16).contiguous(),
            probs,
            back,
            probs.numel() // k,
            k,
            ctx.unimix,
        )
        return back, None, None


class _TwoHotMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, read: Tensor, bins: Tensor) -> Tensor:
        read, y = read.contiguous(), bins.new_empty(read.shape[:-1])
        call("twohot_mean", read, bins, y, y.numel(), len(bins))
        ctx.save_for_backward(read, bins, y)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        read, bins, y = ctx.saved_tensors
        back = torch.empty_like(read)
        call("twohot_mean_back", grads[0].contiguous(), read, bins, y, back, y.numel(), len(bins))
        return back, None


class _TwoHotLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, read: Tensor, low: Tensor, share: Tensor) -> Tensor:
        read, low, share = read.contiguous(), low.contiguous(), share.contiguous()
        y = torch.empty_like(share)
        call("twohot_loss", read, low, share, y, y.numel(), read.shape[-1])
        ctx.save_for_backward(read, low, share)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        read, low, share = ctx.saved_tensors
        back = torch.empty_like(read)
        call(
            "twohot_loss_back",
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
        call("picture_error", mean, image, backdrop, gap, y, len(mean), backdrop.numel())
        ctx.save_for_backward(gap)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (gap,) = ctx.saved_tensors
        back = torch.empty_like(gap)
        call(
            "picture_error_back",
            grads[0].contiguous(),
            gap,
            back,
            len(gap),
            gap.numel() // len(gap),
        )
        return back, None, None


class _InterleavePhases(torch.autograd.Function):
    @staticmethod
    def forward(ctx, phases: Tensor, silu: bool) -> Tensor:
        phases = phases.contiguous()
        n, rows, columns, channels = phases.shape
        ctx.sizes = (n, rows - 1, columns - 1, channels // 4, int(silu))
        y = phases.new_empty(n, 2 * rows - 2, 2 * columns - 2, channels // 4)
        call("interleave_phases", phases, y, *ctx.sizes)
        ctx.save_for_backward(phases)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (phases,) = ctx.saved_tensors
        back = torch.empty_like(phases)
        call("interleave_phases_back", grads[0].contiguous(), phases, back, *ctx.sizes)
        return back, None
