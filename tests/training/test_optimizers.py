"""Optimisers and clipping by hand."""

import math
import subprocess
import sys

import pytest
import torch

from runs import ROOT
from worldmodel.training.optimizers import CLIPS, AdamW, LaProp, clip_adaptive, clip_global


def test_laprop_by_hand():
    """Normalise, then take momentum: two steps of one weight."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = LaProp([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-20)
    square = mean = 0.0
    value = 1.0
    for step, grad in enumerate([0.5, -2.0], 1):
        weight.grad = torch.tensor([grad])
        optimizer.step()
        square = 0.99 * square + 0.01 * grad**2
        mean = 0.9 * mean + 0.1 * grad / math.sqrt(square / (1 - 0.99**step))
        value -= 0.1 * mean / (1 - 0.9**step)
        assert weight.item() == pytest.approx(value, rel=1e-5)


def test_moments_are_averaged_as_published_unless_told_otherwise():
    for kind in (AdamW, LaProp):
        optimizer = kind([], 0.1)
        assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-20, 0)


def test_a_masked_step_of_laprop_is_as_if_it_had_not_been():
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    masked = LaProp([ours], torch.tensor(0.1), weight_decay=0.1)
    plain = LaProp([theirs], 0.1, weight_decay=0.1)
    for bad, grad in enumerate([[0.5, 3.0], [math.nan, math.inf], [-2.0, 1.0]]):
        ours.grad = torch.tensor(grad)
        masked.found_inf = torch.tensor(float(bad == 1))
        masked.step()
        if bad != 1:
            theirs.grad = torch.tensor(grad)
            plain.step()
    torch.testing.assert_close(ours, theirs)
    assert masked.state[ours]["step"] == plain.state[theirs]["step"] == 2


@pytest.mark.parametrize("masked", [False, True])
def test_adam_is_torchs_own_bit_for_bit(masked):
    """Also where a tensor says that a step is to be left out, and where some weights get no
    gradient.
    """
    torch.manual_seed(0)
    start = [torch.randn(3, 2), torch.randn(4), torch.randn(2)]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    lr = torch.tensor(0.1) if masked else 0.1
    own = AdamW(ours, lr, eps=1e-8, weight_decay=0.1)
    wanted = torch.optim.AdamW(theirs, lr, eps=1e-8, weight_decay=0.1, fused=True)
    for step in range(6):
        for optimizer, params in ((own, ours), (wanted, theirs)):
            optimizer.zero_grad()
            for i, p in enumerate(params[: 2 + step % 2]):
                p.grad = torch.full_like(p, step - 2.0 + i)
            optimizer.found_inf = torch.tensor(float(step == 3)) if masked else None
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
            assert all(torch.equal(v, wanted.state[q][k]) for k, v in own.state.get(p, {}).items())
    assert len(own.state) == 3


def test_the_first_optimiser_of_a_process_imports_no_compiler():
    code = (
        "import sys, torch; from worldmodel.training.optimizers import AdamW, LaProp\n"
        "for make in (AdamW, LaProp):\n"
        "    p = torch.nn.Parameter(torch.ones(2)); own = make([p], 0.1); p.sum().backward(); "
        "own.step()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_laprop_steps_do_not_depend_on_the_size_of_gradients(scale):
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = LaProp([weight], lr=0.1)
    for grad in (0.5, -2.0, 1.0):
        weight.grad = torch.tensor([grad * scale])
        optimizer.step()
    wanted = torch.nn.Parameter(torch.tensor([1.0]))
    other = LaProp([wanted], lr=0.1)
    for grad in (0.5, -2.0, 1.0):
        wanted.grad = torch.tensor([grad])
        other.step()
    assert weight.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_weight_decay_shrinks_and_a_weight_without_gradient_stays():
    decayed, still = (
        torch.nn.Parameter(torch.tensor([2.0])),
        torch.nn.Parameter(torch.tensor([3.0])),
    )
    optimizer = LaProp([decayed, still], lr=0.1, weight_decay=0.5)
    decayed.grad = torch.zeros(1)
    optimizer.step()
    assert decayed.item() == pytest.approx(2.0 * 0.95) and still.item() == 3.0


def test_laprop_finds_the_bottom_of_a_valley_that_is_a_thousand_times_steeper_one_way():
    weight = torch.nn.Parameter(torch.tensor([3.0, 3.0]))
    steepness = torch.tensor([1.0, 1000.0])
    optimizer = LaProp([weight], lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        (steepness * weight.square()).sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.05


def parameters(*pairs):
    found = []
    for weight, grad in pairs:
        p = torch.nn.Parameter(torch.tensor(weight))
        p.grad = torch.tensor(grad) if grad is not None else None
        found.append(p)
    return found


def test_global_clip_shrinks_all_gradients_alike():
    params = parameters(([1.0], [3.0]), ([1.0], [4.0]))
    assert clip_global(params, 1.0).item() == pytest.approx(5)
    assert [p.grad.item() for p in params] == pytest.approx([0.6, 0.8])


def test_adaptive_clip_looks_at_each_tensor_alone():
    params = parameters(([10.0], [2.0]), ([10.0], [-8.0]), ([0.0], [1.0]), ([1.0], None))
    assert clip_adaptive(params, 0.3).item() == pytest.approx(math.sqrt(4 + 64 + 1))
    assert [p.grad.item() for p in params[:3]] == pytest.approx([2.0, -3.0, 0.3 * 1e-3])
    assert params[3].grad is None


@pytest.mark.parametrize("clip", CLIPS.values(), ids=list(CLIPS))
def test_a_non_finite_gradient_shows_in_the_norm(clip):
    params = parameters(([1.0], [math.inf]), ([1.0], [1.0]))
    assert not torch.isfinite(clip(params, 1.0))


@pytest.mark.parametrize("clip", CLIPS.values(), ids=list(CLIPS))
def test_clipping_nothing_is_harmless(clip):
    assert clip(parameters(([1.0], None)), 1.0).item() == 0
