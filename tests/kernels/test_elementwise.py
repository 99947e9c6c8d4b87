"""The fused steps compute what torch does, forwards and backwards, to the precision of what goes
in and out.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from worldmodel import build
from worldmodel.config import loading
from worldmodel.kernels import c_library, elementwise, leave_to_torch
from worldmodel.model.dynamics.rssm import gru_cell
from worldmodel.model.heads import TwoHotHead, encode_two_hot, two_hot_loss, two_hot_mean
from worldmodel.model.mean_image import centre_image, picture_error
from worldmodel.model.networks import (
    MLP,
    Norm,
    compute_log_probs,
    interleave_phases,
    norm_silu,
    pick_one_hot,
    silu,
)
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

ROWS, SIZE = (3, 7), 37  # 37: a last part that no vector register is filled by
needs_library = pytest.mark.skipif(
    elementwise.load_library() is None, reason="no C compiler here; torch does these steps"
)


in_both = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


def rough(*shape, seed=0, scale=1.0, dtype=torch.bfloat16):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.bfloat16().to(dtype).requires_grad_()


def norm_of(size, seed=5):
    norm = Norm(size)
    norm.weight.data = torch.rand(size, generator=torch.Generator().manual_seed(seed)) + 0.5
    return norm


def grads_of(function, inputs, weight):
    """The output, and gradients of its weighted sum by every input, all in fp32."""
    for x in inputs:
        x.grad = None
    y = function(*inputs)
    (y.float() * weight).sum().backward()
    return [y.detach().float(), *(x.grad.float().clone() for x in inputs)]


def exact(x):
    """The same numbers in fp32."""
    return x.detach().float().requires_grad_()


def grads_by_torch(function, inputs, weight):
    """`grads_of` at the same numbers in fp32, without the library."""
    with leave_to_torch():
        return grads_of(function, [exact(x) for x in inputs], weight)


def close(got, want, dtype=torch.bfloat16):
    most = 6e-3 if dtype == torch.bfloat16 else 1e-5
    for a, b in zip(got, want, strict=True):
        assert ((a - b).norm() <= most * b.norm()).item(), ((a - b).norm() / b.norm()).item()


@needs_library
@in_both
@pytest.mark.parametrize("fine", [False, True])
def test_norm_silu_is_torchs(fine, dtype):
    x, norm, weight = rough(*ROWS, SIZE, dtype=dtype), norm_of(SIZE), torch.randn(*ROWS, SIZE)
    got = grads_of(lambda x, w: norm_silu(x, norm, fine), [x, norm.weight], weight)
    want = grads_of(
        lambda x, w: F.silu(F.rms_norm(x, (SIZE,), w, norm.eps)),
        [exact(x), exact(norm.weight)],
        weight,
    )
    close(got, want, dtype)
    assert norm_silu(x, norm, fine).dtype == (torch.float32 if fine else dtype)
    if fine:
        torch.testing.assert_close(got[0], want[0], rtol=2e-6, atol=2e-6)


@needs_library
@in_both
def test_silu_is_torchs(dtype):
    x, weight = rough(*ROWS, 4099, dtype=dtype), torch.randn(*ROWS, 4099)
    close(grads_of(silu, [x], weight), grads_by_torch(silu, [x], weight), dtype)


@needs_library
@in_both
def test_gru_is_torchs(dtype):
    gates, state, norm = (
        rough(*ROWS, 3 * SIZE, dtype=dtype),
        exact(rough(*ROWS, SIZE, seed=1)),
        norm_of(3 * SIZE),
    )
    weight = torch.randn(*ROWS, SIZE)
    got = grads_of(lambda g, s, w: gru_cell(g, norm, s), [gates, state, norm.weight], weight)
    copy = norm_of(3 * SIZE)
    with leave_to_torch():
        inputs = [exact(gates), exact(state), copy.weight]
        want = grads_of(lambda g, s, w: gru_cell(g, copy, s), inputs, weight)
    close(got, want, dtype)
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-6)


@needs_library
@in_both
@pytest.mark.parametrize("unimix", [0.0, 0.1])
def test_draws_pick_what_torch_picks_and_pass_the_probabilities_gradients(unimix, dtype):
    logits = rough(200, 5, SIZE, scale=2.0, dtype=dtype)
    weight = torch.randn(200, 5, SIZE).bfloat16().float()
    uniform = torch.rand(200, 5, generator=torch.Generator().manual_seed(1))
    uniform[0], uniform[1] = 0.0, 1 - 2**-24
    got = pick_one_hot(logits, uniform, unimix)
    assert got is not None and (got.sum(-1) == 1).all()
    probs = compute_log_probs(logits.float(), unimix).exp()
    sums = probs.double().cumsum(-1)
    at = got.argmax(-1, keepdim=True)
    upper, lower = sums.gather(-1, at), (sums - probs).gather(-1, at)
    assert (
        (uniform.unsqueeze(-1) <= upper + 1e-5) & (uniform.unsqueeze(-1) >= lower - 1e-5)
    ).all()
    (grad,) = torch.autograd.grad((got * weight).sum(), logits)
    (want,) = torch.autograd.grad((probs * weight).sum(), logits)
    close([grad.float()], [want.float()], dtype)


@needs_library
@in_both
def test_two_hot_heads_are_torchs(dtype):
    head = TwoHotHead(4, 1, 8, 255)
    read, weight = rough(*ROWS, 255, scale=3.0, dtype=dtype), torch.randn(*ROWS)
    # The outermost bins are 5e8: what a mean over them is to the last digit is nobody's question.
    bins = head.bins.where(head.bins.abs() < 1e3, 0.0)
    mean = lambda r: two_hot_mean(r, bins)  # noqa: E731
    close(grads_of(mean, [read], weight), grads_by_torch(mean, [read], weight), dtype)
    low, share = encode_two_hot(torch.randn(*ROWS) * 100, head.bins)
    loss = lambda r: two_hot_loss(r, low, share)  # noqa: E731
    close(grads_of(loss, [read], weight), grads_by_torch(loss, [read], weight), dtype)
    assert (two_hot_mean(torch.zeros(5, 255, dtype=dtype), head.bins) == 0).all()


@needs_library
@in_both
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 5, 8])
def test_interleaved_phases_are_torchs(channels, silu, dtype):
    phases = rough(2, 5, 7, 4 * channels, dtype=dtype)
    weight = torch.randn(2, 8, 12, channels)
    double = lambda x: interleave_phases(x, silu)  # noqa: E731
    got, want = grads_of(double, [phases], weight), grads_by_torch(double, [phases], weight)
    close(got, want, dtype)
    if not silu:
        assert torch.equal(got[0], want[0].to(dtype).float())


@needs_library
@in_both
def test_pictures_and_their_errors_are_torchs(dtype):
    g = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 6, 5, 3), generator=g, dtype=torch.uint8)
    backdrop, mean, weight = (
        torch.rand(6, 5, 3, generator=g) * 255,
        rough(6, 6, 5, 3, dtype=dtype),
        torch.randn(6),
    )
    true = (image.float() - backdrop) / 255
    assert (centre_image(image, backdrop, torch.bfloat16).float() - true).abs().max() <= 2**-9
    torch.testing.assert_close(centre_image(image, backdrop, torch.float32), true)
    error = lambda m: picture_error(m, image.flatten(0, 1), backdrop)  # noqa: E731
    want = 0.5 * (exact(mean) - true.flatten(0, 1)).square().sum((1, 2, 3))
    torch.testing.assert_close(error(mean), want, rtol=1e-5, atol=1e-5)
    close(grads_of(error, [mean], weight), grads_by_torch(error, [mean], weight), dtype)


@needs_library
@in_both
def test_what_is_not_finite_stays_so(dtype):
    x = rough(3, SIZE, dtype=dtype).detach()
    x[1, 2] = float("nan")
    norm = norm_of(SIZE)
    assert torch.isfinite(norm_silu(x, norm)).all(-1).tolist() == [True, False, True]
    gates = torch.cat([x, x, x], -1)
    assert torch.isfinite(gru_cell(gates, norm_of(3 * SIZE), torch.zeros(3, SIZE))).all(
        -1
    ).tolist() == [
        True,
        False,
        True,
    ]
    assert torch.isfinite(two_hot_mean(x, torch.ones(SIZE))).tolist() == [
        True,
        False,
        True,
    ]
    assert torch.isfinite(norm_silu(x * float("inf"), norm)).sum() == 0


@needs_library
@in_both
def test_results_do_not_depend_on_the_threads(dtype):
    norm, x, weight = norm_of(512), rough(64, 512, dtype=dtype), torch.randn(64, 512)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(grads_of(lambda x, w: norm_silu(x, norm), [x, norm.weight], weight))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


IMAGE = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
# Every step with a backward pass, as a function of fp32 rows.
STEPS = {
    "norm_silu": lambda x: norm_silu(x, norm_of(x.shape[-1])),
    "silu": silu,
    "gru_cell": lambda x: gru_cell(x, norm_of(x.shape[-1]), x[..., : x.shape[-1] // 3]),
    "pick_one_hot": lambda x: pick_one_hot(x, torch.full(x.shape[:-1], 0.5), 0.0) * x.detach(),
    "two_hot_mean": lambda x: two_hot_mean(x, torch.linspace(-1, 1, x.shape[-1])),
    "two_hot_loss": lambda x: two_hot_loss(
        x, torch.ones(x.shape[:-1], dtype=torch.int64), torch.full(x.shape[:-1], 0.3)
    ),
    "picture_error": lambda x: picture_error(x.view(2, 4, 4, 3), IMAGE, torch.zeros(4, 4, 3)),
    "interleave_phases": lambda x: interleave_phases(x.view(1, 2, 4, 12), True),
}


@needs_library
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_gradients_of_gradients_come_from_torch_or_fail(step):
    x = rough(8, 12, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="leave_to_torch"):
        torch.autograd.grad(step(x).sum(), x, create_graph=True)
    with leave_to_torch():
        (grad,) = torch.autograd.grad(step(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
    assert torch.isfinite(second).all() and second.abs().sum() > 0


@needs_library
def test_pictures_of_other_types_and_none_at_all_are_torchs():
    backdrop, mean = torch.full((4, 4, 3), 0.25), torch.rand(2, 4, 4, 3)
    image = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.int16)
    torch.testing.assert_close(centre_image(image, backdrop, torch.float32) * 255, image - 0.25)
    want = 0.5 * (mean - (image - 0.25) / 255).square().sum((1, 2, 3))
    torch.testing.assert_close(picture_error(mean, image, backdrop), want)
    none = torch.zeros(0, 4, 4, 3, requires_grad=True)
    picture_error(none, IMAGE[:0], backdrop).sum().backward()
    assert none.grad is not None and none.grad.shape == (0, 4, 4, 3)


@needs_library
def test_a_network_is_exported_with_torchs_own_operations():
    found = torch.export.export(MLP(4, 2, 1, 8), (torch.zeros(3, 4),))
    assert any("silu" in str(node.target) for node in found.graph.nodes)


@needs_library
def test_a_whole_update_is_the_same_with_and_without(monkeypatch):
    """Losses and gradients of model, actor and critic, by the library and by torch, in bf16 and in
    fp32.
    """
    space, observation = ActionSpace(3), ObservationSpace({"image": (64, 64, 3)})
    settings = [
        "debug",
        "behavior.name=actor_critic",
        "model.latent=deterministic",
        "model.reward_head=twohot",
    ]
    c = loading.parse(
        [*settings, "actor.gradient=dynamics", "actor.dist=tanh", "actor.init_scale=1.0"]
    )
    batch = {
        k: torch.zeros(4, 6, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")
    }
    g = torch.Generator().manual_seed(0)
    batch["image"] = torch.randint(0, 256, (4, 6, 64, 64, 3), generator=g, dtype=torch.uint8)
    batch["prev_action"], batch["reward"] = (
        torch.rand(4, 6, 3, generator=g),
        torch.rand(4, 6, generator=g),
    )

    def gradients(precision):
        torch.manual_seed(0)
        model = build.make_model(c, observation, space)
        policy = build.make_policy(c, model, space)
        learner = Learner(model, c.optim, torch.device("cpu"), precision, policy)
        torch.manual_seed(1)
        total, _ = learner.loss(batch)
        total.backward()
        parts = {
            k: torch.cat([p.grad.flatten() for p in v if p.grad is not None])
            for k, v in learner.optimizers.parts.items()
        }
        return total.detach(), parts

    fine_library, fine_parts = gradients("fp32")
    with_library, fused_parts = gradients("bf16")
    monkeypatch.setattr(elementwise, "load_library", lambda: None)
    want, exact_parts = gradients("fp32")
    without, torch_parts = gradients("bf16")
    torch.testing.assert_close(fine_library, want, rtol=1e-5, atol=0)
    assert (
        abs(with_library - want) <= 2e-3 * want.abs() and abs(without - want) <= 2e-3 * want.abs()
    )
    for part, true in exact_parts.items():
        assert (fine_parts[part] - true).norm() <= 1e-4 * true.norm(), part
        errors = [
            ((found[part] - true).norm() / true.norm()).item()
            for found in (fused_parts, torch_parts)
        ]
        assert errors[0] <= max(1.2 * errors[1], 0.02), (part, errors)


def test_without_a_compiler_torch_does_the_work(tmp_path):
    code = (
        "import torch; from worldmodel.kernels.c_library import load_library; "
        "from worldmodel.model.networks import MLP; "
        "print(load_library()); "
    )
    code += "print(MLP(4, 2, 1, 8)(torch.zeros(1, 4)).shape)"
    env = dict(os.environ, CC="no-such-compiler", XDG_CACHE_HOME=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["None", "torch.Size([1, 2])"]


def test_a_compiler_that_fails_is_one_line_and_no_more(tmp_path, monkeypatch, caplog):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'something is missing' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert c_library.load_library.__wrapped__() is None
    assert [r.getMessage() for r in caplog.records] == [
        "fused steps were not built (something is missing); torch does their work, slower"
    ]
    assert MLP(4, 2, 1, 8)(torch.zeros(1, 4)).shape == (1, 2)
