"""The posterior states of a sequence, and their gradients, by one autograd function on a CPU.

The equations are those of `RSSM.filter_sequence`. There autograd keeps some twenty nodes for each
step and adds up every weight's gradient step by step. Here a weight's gradient is one matrix
product over all steps. For step t, with h and z of step t - 1 or zeros where an episode starts:

    u = action_in + W_z z      x = silu(norm(u))     g = W_g [x, h] + b_g     h' = gru(norm(g), h)
    v = embed_in + W_h h'      y = silu(norm(v))     p = W_p y + b_p          z' ~ latent(p)

Backwards, where d_a is the gradient by a; those by h' and z' come from outside and from step t+1:

    d_p += (dz'/dp)' d_z'      d_v = (dy/dv)' W_p' d_p           d_h' += W_h' d_v
    d_g = (dh'/dg)' d_h'       [d_x, d_h] = W_g' d_g, and d_h += (dh'/dh)' d_h'
    d_u = (dx/du)' d_x         d_z = W_z' d_u

Forward hooks of the layers are not called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldmodel.kernels.c_library import BLOCKS
from worldmodel.kernels.elementwise import accepts, call_step, refuse_second_gradients
from worldmodel.spaces import State


class Weights(NamedTuple):
    """Matrices, biases and weights of norms, named as in the equations above."""

    w_z: Tensor
    norm_u: Tensor
    w_g: Tensor
    b_g: Tensor
    norm_g: Tensor
    w_h: Tensor
    norm_v: Tensor
    w_p: Tensor
    b_p: Tensor

    def lower(self, precision: torch.dtype) -> Weights:
        """Matrices and biases in the precision of the products; norms stay in fp32."""
        named = self._asdict().items()
        return Weights(**{k: v if k.startswith("norm") else v.to(precision) for k, v in named})


class BackwardInputs(NamedTuple):
    """What the backward pass reads, by step (T,B,...); names as in the equations above."""

    kept: Tensor
    u: Tensor
    x_and_h: Tensor
    g: Tensor
    new_h: Tensor
    v: Tensor
    y: Tensor
    scales: Tensor


def filter_sequence(
    dynamics: Any, state: State, action_in: Tensor, embed_in: Tensor, keep: Tensor
) -> State | None:
    """The kernel of `RSSM.filter_sequence`, for a latent beside a GRU of one block."""
    if dynamics.transition != "rssm" or dynamics.gru.blocks > 1 or not accepts(action_in):
        return None
    if torch.is_autocast_enabled("cpu") and action_in.dtype != torch.get_autocast_dtype("cpu"):
        return None
    gru, out = dynamics.gru, dynamics.post_out
    weights = Weights(
        dynamics.from_stoch.weight,
        dynamics.input_norm.weight,
        gru.gates.weight,
        gru.gates.bias,
        gru.norm.weight,
        dynamics.post_deter.weight,
        dynamics.post_norm.weight,
        out.weight,
        out.bias,
    )
    is_fp32 = all(w.dtype == torch.float32 for w in weights)
    if not is_fp32 or embed_in.dtype != action_in.dtype or len(state["deter"]) != len(embed_in):
        return None
    start = state["deter"].float().contiguous(), state["stoch"].to(action_in.dtype)
    inputs = *start, action_in, embed_in, *weights
    learns = torch.is_grad_enabled() and any(v.requires_grad for v in inputs)
    eps = dynamics.post_norm.eps
    deter, stoch, params = _Filter.apply(dynamics.latent, eps, learns, keep, *inputs)
    return {"deter": deter, "stoch": stoch, "params": params}


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        latent: Any,
        eps: float,
        learns: bool,
        keep: Tensor,
        deter: Tensor,
        stoch: Tensor,
        action_in: Tensor,
        embed_in: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        precision = action_in.dtype
        w = Weights(*weights).lower(precision)
        u, v = swap_axes(action_in), swap_axes(embed_in)
        steps, batch, hidden = u.shape
        size = deter.shape[-1]
        y, p = torch.empty_like(v), u.new_empty(steps, batch, len(w.b_p))
        g, new_h = u.new_empty(steps, batch, 3 * size), deter.new_empty(steps, batch, size)
        x_and_h = u.new_empty(steps, batch, hidden + size)
        scales = deter.new_empty(3, steps, batch)
        x = torch.empty_like(u[0])
        kept = keep.squeeze(-1).t().bool()
        has_start = (~kept).any(1).tolist()
        old: list[tuple[Tensor, Tensor]] = []  # h and z of the step before, as they are read
        drawn: list[tuple[Tensor, Tensor]] = []  # p and z', with the graph between them
        stochs = []
        for t in range(steps):
            if has_start[t]:
                deter, stoch = reset_rows(deter, kept[t]), reset_rows(stoch, kept[t])
            flat = latent.flat(stoch)
            torch.addmm(u[t], flat, w.w_z.t(), out=u[t])
            _norm_silu(u[t], w.norm_u, x, scales[0, t], eps)
            torch.cat([x, deter.to(precision)], -1, out=x_and_h[t])
            torch.addmm(w.b_g, x_and_h[t], w.w_g.t(), out=g[t])
            call_step(
                "gru",
                precision,
                *(g[t], w.norm_g, deter, new_h[t], scales[1, t], batch, size, eps),
            )
            torch.addmm(v[t], new_h[t].to(precision), w.w_h.t(), out=v[t])
            _norm_silu(v[t], w.norm_v, y[t], scales[2, t], eps)
            torch.addmm(w.b_p, y[t], w.w_p.t(), out=p[t])
            with torch.enable_grad():
                params = p[t].clone().requires_grad_(learns)
                sample = latent.sample(params)
            if learns:
                old.append((deter, flat))
                drawn.append((params, sample))
            deter, stoch = new_h[t], sample.detach().to(precision)
            stochs.append(sample.detach())
        saved = BackwardInputs(kept, u, x_and_h, g, new_h, v, y, scales)
        pairs = (tensor for pair in (*old, *drawn) for tensor in pair)
        ctx.save_for_backward(*saved, *w, *pairs)
        ctx.has_start = has_start
        return swap_axes(new_h), torch.stack(stochs, 1), swap_axes(p)

    @staticmethod
    @refuse_second_gradients
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, *grads: Tensor):
        from_deter, from_stoch, from_params = (swap_axes(grad) for grad in grads)
        tensors, end = ctx.saved_tensors, len(BackwardInputs._fields) + len(Weights._fields)
        s = BackwardInputs(*tensors[: len(BackwardInputs._fields)])
        w = Weights(*tensors[len(BackwardInputs._fields) : end])
        pairs = list(zip(tensors[end::2], tensors[end + 1 :: 2], strict=True))
        steps, batch, hidden = s.u.shape
        old, drawn = pairs[:steps], pairs[steps:]
        size, precision, blocks = s.new_h.shape[-1], s.u.dtype, min(BLOCKS, batch)
        by_u, by_g, by_v = (torch.empty_like(tensor) for tensor in (s.u, s.g, s.v))
        by_p = s.u.new_empty(steps, batch, len(w.b_p))
        by_norm_u, by_norm_v = (s.new_h.new_empty(steps, blocks, hidden) for _ in range(2))
        by_norm_g = s.new_h.new_empty(steps, blocks, 3 * size)
        by_deter, by_stoch = torch.zeros_like(s.new_h[0]), torch.zeros_like(old[0][1])
        for t in reversed(range(steps)):
            params, sample = drawn[t]
            by_p[t] = from_params[t]
            if sample.requires_grad:
                by_sample = from_stoch[t] + by_stoch.view(sample.shape)
                by_p[t] += torch.autograd.grad(sample, params, by_sample, retain_graph=True)[0]
            _norm_silu_back(
                by_p[t] @ w.w_p, s.v[t], w.norm_v, s.scales[2, t], by_v[t], by_norm_v[t]
            )
            by_new_h = from_deter[t] + by_deter + by_v[t] @ w.w_h
            past_update = torch.empty_like(by_new_h)
            call_step(
                "gru_back",
                precision,
                *(by_new_h, s.g[t], w.norm_g, old[t][0], s.scales[1, t]),
                *(by_g[t], past_update, by_norm_g[t], batch, size, blocks),
            )
            by_x, by_h = (by_g[t] @ w.w_g).split((hidden, size), -1)
            _norm_silu_back(
                by_x.contiguous(), s.u[t], w.norm_u, s.scales[0, t], by_u[t], by_norm_u[t]
            )
            by_deter, by_stoch = past_update + by_h, by_u[t] @ w.w_z
            if ctx.has_start[t]:
                by_deter = reset_rows(by_deter, s.kept[t])
                by_stoch = reset_rows(by_stoch, s.kept[t])
        by_weights = Weights(
            w_z=sum_outer_products(by_u, torch.stack([flat for _, flat in old])),
            norm_u=by_norm_u.sum((0, 1)),
            w_g=sum_outer_products(by_g, s.x_and_h),
            b_g=by_g.float().sum((0, 1)),
            norm_g=by_norm_g.sum((0, 1)),
            w_h=sum_outer_products(by_v, s.new_h.to(precision)),
            norm_v=by_norm_v.sum((0, 1)),
            w_p=sum_outer_products(by_p, s.y),
            b_p=by_p.float().sum((0, 1)),
        )
        by_start = by_deter, by_stoch.view(drawn[0][1].shape)
        by_inputs = by_u.transpose(0, 1), by_v.transpose(0, 1)
        return None, None, None, None, *by_start, *by_inputs, *by_weights


def swap_axes(x: Tensor) -> Tensor:
    """A copy (T,B,...) of (B,T,...), or the other way around."""
    return x.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def reset_rows(x: Tensor, kept: Tensor) -> Tensor:
    """Zero the rows where an episode starts; `where` stops even a NaN."""
    return torch.where(kept.view(-1, *[1] * (x.dim() - 1)), x, 0.0)


def sum_outer_products(grad: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of a matrix from those of its outputs (T,B,O) and its inputs (T,B,I)."""
    return (grad.flatten(0, 1).t() @ inputs.flatten(0, 1)).float()


def _norm_silu(x: Tensor, weight: Tensor, y: Tensor, scale: Tensor, eps: float) -> None:
    call_step("norm_silu", x.dtype, x, weight, y, None, scale, *x.shape, eps)


def _norm_silu_back(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, by_x: Tensor, by_weight: Tensor
) -> None:
    sizes = *x.shape, len(by_weight)
    call_step("norm_silu_back", x.dtype, grad, None, x, weight, scale, by_x, by_weight, *sizes)
