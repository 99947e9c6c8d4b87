"""The RSSM's two loops with a backward pass by hand: for bf16 on a CPU, where many small
operations cost most.

A step is a few matrix products into buffers made once, and fused steps between them. autograd
would keep a graph of thirty nodes per step and add a small gradient to every weight at each. Here
the backward pass is a loop as well, and a weight's gradient is one product over all steps after
it.
`tests/kernels/test_rssm_loops.py` compares both with autograd.

Rows lie as [input | deter | stoch]: the first two are what the GRU's gates see, the last two are
the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodel.kernels.c_library import BLOCKS, call
from worldmodel.kernels.elementwise import accepts
from worldmodel.kernels.planning_step import PackedStep, keep_while_fixed
from worldmodel.spaces import State

BF16 = torch.bfloat16


def to_bf16(parameter: Tensor) -> Tensor:
    return parameter.detach().to(BF16)


def apply_norm_silu(x: Tensor, norm: Tensor, eps: float, out: Tensor, scale: Tensor) -> None:
    """SiLU of the norm of x (N,D) into rows of `out`; `scale` (N,) is kept for the backward
    pass.
    """
    call("norm_silu", x, norm, out, None, scale, len(x), x.shape[1], out.stride(0), eps)


def backward_norm_silu(grad: Tensor, x: Tensor, norm: Tensor, scale: Tensor, out: Tensor) -> None:
    """The gradient by x, from the gradient by the result, into `out`."""
    call(
        "norm_silu_back",
        grad,
        None,
        x,
        norm,
        scale,
        out,
        None,
        len(x),
        x.shape[1],
        grad.stride(0),
        BLOCKS,
    )


def compute_norm_gradient(grad: Tensor, x: Tensor, norm: Tensor, scale: Tensor) -> Tensor:
    """The gradient by a norm's weights, of all rows (...,D) at once."""
    n, d = scale.numel(), x.shape[-1]
    sums = norm.new_empty(BLOCKS, d)
    call("norm_silu_back", grad, None, x, norm, scale, torch.empty_like(x), sums, n, d, d, BLOCKS)
    return sums.sum(0)


def compute_matrix_gradient(left: Tensor, right: Tensor) -> Tensor:
    """The gradient (D,E) of a matrix over all rows, from its outputs' gradient (...,D) and inputs
    (...,E).
    """
    return (left.flatten(0, 1).t() @ right.flatten(0, 1)).float()


class Cell:
    """One step of prior state and action to the next deter, forward and backward, in the caller's
    buffers.
    """

    def __init__(
        self,
        stoch: Tensor,
        input_norm: Tensor,
        gates: Tensor,
        bias: Tensor,
        gru_norm: Tensor,
        eps: float,
    ):
        self.stoch, self.gates, self.bias = to_bf16(stoch), to_bf16(gates), to_bf16(bias)
        self.input_norm, self.gru_norm, self.eps = input_norm.detach(), gru_norm.detach(), eps
        self.hidden, self.deter = stoch.shape[0], gates.shape[0] // 3
        self.inner, self.size = self.hidden + self.deter, self.hidden + self.deter + stoch.shape[1]

    def forward(
        self,
        row: Tensor,
        pre: Tensor,
        gates: Tensor,
        old: Tensor,
        new: Tensor,
        near: Tensor,
        scale: Tensor,
    ) -> None:
        """From `row`, its input missing, and the projected action in `pre`: deter into `new`,
        rounded into `near`.
        """
        pre.addmm_(row[:, self.inner :], self.stoch.t())
        apply_norm_silu(pre, self.input_norm, self.eps, row, scale[0])
        torch.addmm(self.bias, row[:, : self.inner], self.gates.t(), out=gates)
        call(
            "gru",
            gates,
            self.gru_norm,
            old,
            new,
            near,
            scale[1],
            len(old),
            self.deter,
            near.stride(0),
            self.eps,
        )

    def backward(
        self,
        grad: Tensor,
        pre: Tensor,
        gates: Tensor,
        old: Tensor,
        scale: Tensor,
        out: StepGradients,
    ) -> None:
        """From the gradient by deter (N,D) to those by what led to it."""
        n = len(old)
        call(
            "gru_back",
            grad,
            gates,
            self.gru_norm,
            old,
            scale[1],
            out.gates,
            out.deter,
            None,
            n,
            self.deter,
            BLOCKS,
        )
        torch.mm(out.gates, self.gates, out=out.inner)
        backward_norm_silu(out.inner, pre, self.input_norm, scale[0], out.pre)
        out.deter.add_(out.inner[:, self.hidden :])


class StepGradients:
    """Buffers for the gradients of one step."""

    def __init__(self, gates: Tensor, inner: Tensor, pre: Tensor, deter: Tensor):
        self.gates, self.inner, self.pre, self.deter = gates, inner, pre, deter


class KernelRollout:
    """A rollout of N states, as `dynamics.Rollout`; `features_after` passes gradients to the
    actions.

    With gradients off, only the states are kept.
    """

    def __init__(self, rssm, state: State, steps: int, generator: torch.Generator | None):
        self.latent, self.generator, self.at = rssm.latent, generator, 0
        n, self.graph = len(state["deter"]), torch.is_grad_enabled()
        # Features begin behind the input
        self.hidden, deter = (
            rssm.from_action.out_features,
            rssm.gru.size,
        )
        inner = self.hidden + deter
        self.rows = torch.empty(steps + 1, n, inner + self.latent.size, dtype=BF16)
        self.deter = torch.empty(steps + 1, n, deter)
        self.deter[0] = state["deter"]
        self.rows[0, :, self.hidden : inner] = state["deter"]
        self.rows[0, :, inner:] = self.latent.flat(state["stoch"])
        whole = not self.graph and PackedStep.supports(rssm)
        self.packed = keep_while_fixed(rssm.gru, lambda: PackedStep(rssm)) if whole else None
        if self.packed is None:
            self._prepare(rssm, n, steps if self.graph else 1)

    def _prepare(self, rssm, n: int, kept: int) -> None:
        """Convert weights and allocate buffers for `kept` steps, where a step is not one call."""
        self.cell, self.action, self.prior, self.prior_norm = keep_while_fixed(
            rssm, lambda: self._convert_weights(rssm)
        )
        cell = self.cell
        self.pre = torch.empty(kept, n, cell.hidden, dtype=BF16)
        self.gates = torch.empty(kept, n, 3 * cell.deter, dtype=BF16)
        self.middle = torch.empty(kept, n, cell.hidden, dtype=BF16)
        self.scale = torch.empty(kept, 3, n)
        self.silu, self.params = (
            torch.empty(n, cell.hidden, dtype=BF16),
            torch.empty(n, len(self.prior[2]), dtype=BF16),
        )
        self.draws = list[Any]()
        self.actions: list[Tensor] = []

    @staticmethod
    def _convert_weights(rssm):
        """The transition in bf16."""
        gru, prior = rssm.gru, rssm.prior_net
        recurrent = (
            rssm.from_stoch.weight,
            rssm.input_norm.weight,
            gru.gates.weight,
            gru.gates.bias,
            gru.norm.weight,
        )
        action = to_bf16(rssm.from_action.weight), to_bf16(rssm.from_action.bias)
        layers = (
            to_bf16(prior.hidden[0].weight),
            to_bf16(prior.out.weight),
            to_bf16(prior.out.bias),
        )
        return Cell(*recurrent, gru.norm.eps), action, layers, prior.norms[0].weight.detach()

    @property
    def features(self) -> Tensor:
        """Features (N,F) of the current states, without a graph."""
        return self.rows[self.at, :, self.hidden :]

    @torch.no_grad()
    def step(self, action: Tensor) -> None:
        """One step by actions (N,A)."""
        t, slot = self.at, self.at if self.graph else 0
        # `data`: autograd holds features of earlier steps, and must not count writing this one as
        # a change of theirs.
        row, following = self.rows[t], self.rows.data[t + 1]
        if self.packed is not None:
            self.packed.run(
                row, action, self.deter[t], following, self.deter[t + 1], self.generator
            )
            self.at += 1
            return
        cell, pre = self.cell, self.pre[slot]
        with torch.autocast("cpu", enabled=False):
            torch.addmm(self.action[1], action.to(BF16), self.action[0].t(), out=pre)
            near = following[:, cell.hidden : cell.inner]
            cell.forward(
                row,
                pre,
                self.gates[slot],
                self.deter[t],
                self.deter[t + 1],
                near,
                self.scale[slot],
            )
            middle = torch.mm(near, self.prior[0].t(), out=self.middle[slot])
            apply_norm_silu(middle, self.prior_norm, cell.eps, self.silu, self.scale[slot, 2])
            params = torch.addmm(self.prior[2], self.silu, self.prior[1].t(), out=self.params)
            drawn = self.latent.sample_into(params, following[:, cell.inner :], self.generator)
        if self.graph:
            self.actions.append(action)
            self.draws.append(drawn)
        self.at += 1

    def features_before(self) -> Tensor:
        """Features (H,N,F) of the states the actions were taken in."""
        return self.rows[: self.at, :, self.hidden :]

    def features_after(self) -> Tensor:
        """Features (H,N,F) of the states the actions led to."""
        if not self.graph:
            return self.rows[1 : self.at + 1, :, self.hidden :]
        return _RolloutFeatures.apply(torch.stack(self.actions), self)

    def backward(self, grad: Tensor) -> Tensor:
        """Gradients (H,N,A) of the actions from those of the features after them (H,N,F)."""
        cell, (steps, n, _) = self.cell, grad.shape
        found = grad.new_empty(steps, n, self.action[0].shape[1])
        deter, stoch = (
            grad.new_zeros(n, cell.deter, dtype=torch.float32),
            grad.new_zeros(n, cell.size - cell.inner),
        )
        pre, to_prior = torch.empty_like(self.pre[0]), torch.empty_like(self.pre[0])
        to_deter = grad.new_empty(n, cell.deter)
        out = StepGradients(
            torch.empty_like(self.gates[0]),
            grad.new_empty(n, cell.inner),
            pre,
            torch.empty_like(deter),
        )
        for t in reversed(range(steps)):
            stoch += grad[t, :, cell.deter :]
            middle = torch.mm(self.latent.backward_sample(stoch, self.draws[t]), self.prior[1])
            backward_norm_silu(middle, self.middle[t], self.prior_norm, self.scale[t, 2], to_prior)
            torch.mm(to_prior, self.prior[0], out=to_deter)
            deter += grad[t, :, : cell.deter]
            deter += to_deter
            cell.backward(deter, self.pre[t], self.gates[t], self.deter[t], self.scale[t], out)
            torch.mm(pre, self.action[0], out=found[t])
            torch.mm(pre, cell.stoch, out=stoch)
            deter, out.deter = out.deter, deter
        return found


class _RolloutFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx, actions: Tensor, rollout: KernelRollout) -> Tensor:
        ctx.rollout, ctx.dtype = rollout, actions.dtype
        return rollout.rows[1:, :, rollout.hidden :]

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return ctx.rollout.backward(grads[0]).to(ctx.dtype), None


def can_replace(rssm, like: Tensor) -> bool:
    """Whether these loops replace the RSSM's own over tensors like this one."""
    return (
        rssm.transition == "rssm"
        and rssm.gru is not None
        and rssm.gru.blocks == 1
        and accepts(like)
    )


def start_rollout(
    rssm, state: State, steps: int, generator: torch.Generator | None = None
) -> Any | None:
    dtype = torch.get_autocast_dtype("cpu")
    if not torch.is_autocast_enabled("cpu") or not can_replace(rssm, torch.empty(0, dtype=dtype)):
        return None
    return KernelRollout(rssm, state, steps, generator)


def filter_sequences(
    rssm, action_in: Tensor, embed_in: Tensor, first: Tensor, start: State
) -> tuple[Tensor, Tensor, Tensor] | None:
    if not can_replace(rssm, embed_in):
        return None
    latent, gru = rssm.latent, rssm.gru
    recurrent = (
        rssm.from_stoch.weight,
        rssm.input_norm.weight,
        gru.gates.weight,
        gru.gates.bias,
        gru.norm.weight,
    )
    posterior = (
        rssm.post_deter.weight,
        rssm.post_norm.weight,
        rssm.post_out.weight,
        rssm.post_out.bias,
    )
    begin = start["deter"].detach().float(), latent.flat(start["stoch"]).detach().to(BF16)
    inputs = (x.transpose(0, 1) for x in (action_in, embed_in, first))
    deter, stoch, params = _Filter.apply(
        latent, gru.norm.eps, begin, *inputs, *recurrent, *posterior
    )
    stoch = stoch.unflatten(-1, latent.shape)
    return deter.transpose(0, 1), stoch.transpose(0, 1), params.transpose(0, 1)


class _Filter(torch.autograd.Function):
    """Time first: (T,B,...)."""

    @staticmethod
    def forward(ctx, latent, eps, begin, action_in, embed_in, first, *weights):
        stoch_in, input_norm, into, into_bias, gru_norm, post, post_norm, out, bias = weights
        cell = Cell(stoch_in, input_norm, into, into_bias, gru_norm, eps)
        post, post_norm, out, bias = to_bf16(post), post_norm.detach(), to_bf16(out), to_bf16(bias)
        (steps, n), embed_in = first.shape, embed_in.to(BF16)
        rows = torch.empty(steps, n, cell.size, dtype=BF16)
        old, deter = torch.empty(steps, n, cell.deter), torch.empty(steps, n, cell.deter)
        near, stoch = (
            rows.new_empty(steps, n, cell.deter),
            rows.new_empty(steps, n, cell.size - cell.inner),
        )
        pre = action_in.to(BF16, copy=True, memory_format=torch.contiguous_format)
        gates, params = (
            rows.new_empty(steps, n, 3 * cell.deter),
            rows.new_empty(steps, n, len(bias)),
        )
        mixed, silu = rows.new_empty(steps, n, cell.hidden), rows.new_empty(steps, n, cell.hidden)
        scale, draws = torch.empty(steps, 2, n), []
        post_scale = torch.empty(steps, n)
        wide, starts = first.bool().unsqueeze(-1), first.bool().any(1).tolist()
        with torch.autocast("cpu", enabled=False):
            for t in range(steps):
                before = (deter[t - 1], stoch[t - 1]) if t else begin
                if starts[t]:  # filled, not multiplied, so that not even a NaN is carried over
                    before = tuple(x.masked_fill(wide[t], 0) for x in before)
                old[t] = before[0]
                rows[t, :, cell.hidden : cell.inner] = before[0]
                rows[t, :, cell.inner :] = before[1]
                cell.forward(rows[t], pre[t], gates[t], old[t], deter[t], near[t], scale[t])
                torch.addmm(embed_in[t], near[t], post.t(), out=mixed[t])
                apply_norm_silu(mixed[t], post_norm, eps, silu[t], post_scale[t])
                torch.addmm(bias, silu[t], out.t(), out=params[t])
                draws.append(latent.sample_into(params[t], stoch[t], None))
        ctx.latent, ctx.cell, ctx.post, ctx.draws, ctx.starts = (
            latent,
            cell,
            (post, post_norm, out),
            draws,
            starts,
        )
        ctx.kept = rows, old, near, pre, gates, mixed, silu, scale, post_scale, wide
        return deter, stoch, params

    @staticmethod
    def backward(ctx, *grads: Tensor):
        cell, latent, (post, post_norm, out) = ctx.cell, ctx.latent, ctx.post
        rows, old, near, pre, gates, mixed, silu, scale, post_scale, wide = ctx.kept
        g_deter, g_stoch, g_params = (g.contiguous() for g in grads)
        to_mixed, to_pre, to_gates = (
            torch.empty_like(mixed),
            torch.empty_like(pre),
            torch.empty_like(gates),
        )
        to_deter, to_params, to_silu = (
            torch.empty_like(old),
            torch.empty_like(g_params),
            torch.empty_like(silu),
        )
        inner = rows.new_empty(len(rows), rows.shape[1], cell.inner)
        deter, stoch = torch.zeros_like(old[0]), torch.zeros_like(g_stoch[0])
        for t in reversed(range(len(rows))):
            stoch += g_stoch[t]
            torch.add(g_params[t], latent.backward_sample(stoch, ctx.draws[t]), out=to_params[t])
            torch.mm(to_params[t], out, out=to_silu[t])
            backward_norm_silu(to_silu[t], mixed[t], post_norm, post_scale[t], to_mixed[t])
            torch.add(g_deter[t], deter, out=to_deter[t])
            to_deter[t] += to_mixed[t] @ post
            cell.backward(
                to_deter[t],
                pre[t],
                gates[t],
                old[t],
                scale[t],
                StepGradients(to_gates[t], inner[t], to_pre[t], deter),
            )
            torch.mm(to_pre[t], cell.stoch, out=stoch)
            if ctx.starts[t]:
                deter.masked_fill_(wide[t], 0)
                stoch.masked_fill_(wide[t], 0)
        recurrent = (
            compute_matrix_gradient(to_pre, rows[..., cell.inner :]),
            compute_norm_gradient(
                inner[..., : cell.hidden].contiguous(),
                pre,
                cell.input_norm,
                scale[:, 0].contiguous(),
            ),
            compute_matrix_gradient(to_gates, rows[..., : cell.inner]),
            to_gates.flatten(0, 1).float().sum(0),
            compute_gru_norm_gradient(
                to_deter, gates, cell.gru_norm, old, scale[:, 1].contiguous()
            ),
        )
        posterior = (
            compute_matrix_gradient(to_mixed, near),
            compute_norm_gradient(to_silu, mixed, post_norm, post_scale),
            compute_matrix_gradient(to_params, silu),
            to_params.flatten(0, 1).float().sum(0),
        )
        return None, None, None, to_pre, to_mixed, None, *recurrent, *posterior


def compute_gru_norm_gradient(
    grad: Tensor, gates: Tensor, norm: Tensor, old: Tensor, scale: Tensor
) -> Tensor:
    """The gradient by the weights of the gates' norm, of all rows at once."""
    sums, scratch = (
        norm.new_empty(BLOCKS, len(norm)),
        (torch.empty_like(gates), torch.empty_like(old)),
    )
    call(
        "gru_back",
        grad,
        gates,
        norm,
        old,
        scale,
        *scratch,
        sums,
        scale.numel(),
        old.shape[-1],
        BLOCKS,
    )
    return sums.sum(0)
