"""The members' networks in C give what torch gives, for any number of rows and threads."""

import pytest
import torch

from worldmodel.kernels import member_mlp
from worldmodel.kernels.c_library import load_library
from worldmodel.kernels.packing import fixed_weights
from worldmodel.kernels.planning_step import is_available
from worldmodel.model.dynamics.mlp import MLPDynamics, Settings
from worldmodel.model.member_networks import MemberMLP

pytestmark = pytest.mark.skipif(
    not hasattr(load_library(), "run_members"), reason="no C compiler on this machine"
)

needs_bf16 = pytest.mark.skipif(not is_available(), reason="this processor does not multiply bf16")


@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
@pytest.mark.parametrize(
    ("rows", "layers", "units", "outputs"), [(64, 1, 16, 3), (131, 3, 40, 18), (1000, 2, 200, 8)]
)
def test_members_in_c_equal_those_in_torch(rows, layers, units, outputs, activation):
    net = MemberMLP(3, 7, outputs, layers, units, activation=activation)
    for p in net.parameters():
        p.data.add_(torch.randn_like(p) * 0.1)
    x = torch.randn(3, rows, 7)
    wanted = net(x)  # with a graph, which the C half leaves to torch
    assert wanted.requires_grad
    with torch.no_grad():
        assert member_mlp.run_members(net, x) is not None
        found = net(x)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-4)


@needs_bf16
@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
@pytest.mark.parametrize(
    ("rows", "layers", "units", "outputs"), [(64, 1, 16, 3), (131, 3, 41, 18), (1000, 2, 200, 8)]
)
def test_members_in_bf16_equal_those_in_fp32_up_to_rounding(
    rows, layers, units, outputs, activation
):
    net = MemberMLP(3, 7, outputs, layers, units, activation=activation)
    for p in net.parameters():
        p.data.add_(torch.randn_like(p) * 0.1)
    x = torch.randn(3, rows, 7)
    with torch.no_grad():
        wanted = net._run(x)
        with torch.autocast("cpu", torch.bfloat16):
            found, by_torch = member_mlp.run_members(net, x), net._run(x)
    assert found.dtype == torch.float32
    error = (found - wanted).abs().mean()
    assert 0 < error < 0.01 * wanted.abs().mean()
    assert error <= (by_torch.float() - wanted).abs().mean()


@needs_bf16
def test_weights_kept_in_one_precision_are_not_used_for_another():
    net, x = MemberMLP(2, 5, 4, 1, 16), torch.randn(2, 100, 5)
    with torch.no_grad(), fixed_weights():
        fine = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x)
        assert torch.equal(fine, net(x))
    assert not torch.equal(fine, rough)


def test_networks_that_it_does_not_have_are_left_to_torch():
    x = torch.randn(2, 100, 5)
    plain, normed = MemberMLP(2, 5, 4, 1, 16), MemberMLP(2, 5, 4, 1, 16, norm=True)
    with torch.no_grad():
        assert member_mlp.run_members(plain, x) is not None
        assert member_mlp.run_members(normed, x) is None
        assert member_mlp.run_members(plain, x[:, :10]) is None
        with torch.autocast("cpu", torch.float16):
            assert member_mlp.run_members(plain, x) is None
    assert member_mlp.run_members(plain, x) is None


def test_weights_that_moved_are_packed_anew():
    net, x = MemberMLP(2, 5, 4, 1, 16), torch.randn(2, 100, 5)
    with torch.no_grad():
        before = net(x)
        net.out.bias.add_(1.0)
        torch.testing.assert_close(net(x), before + 1)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("noise", ["gaussian", "none"])
def test_rollouts_in_c_equal_those_in_torch(noise, residual, members):
    rows, numbers, actions, steps = members * 70, 5, 2, 4
    settings = Settings(2, 24, "silu", noise, residual)
    dynamics = MLPDynamics(settings, lambda: None, actions=actions, embed=numbers, members=members)
    dynamics.mean.normal_()
    dynamics.std.uniform_(0.5, 2.0)
    dynamics.step_std.uniform_(0.1, 0.5)
    with torch.no_grad():
        dynamics.net.out.bias.normal_(std=3.0)  # log-variances near both of their bounds
    state = {"vector": torch.randn(rows, numbers)}
    if members > 1:
        state["member"] = torch.arange(members).repeat_interleave(rows // members)
    plans = torch.randn(steps, rows, actions)
    found = []
    for kept in [True, False]:
        generator = torch.Generator().manual_seed(3)
        with torch.set_grad_enabled(not kept):  # a graph is left to torch
            rollout = dynamics.start_rollout(state, steps, generator)
            for action in plans:
                rollout.step(action)
        assert isinstance(rollout, member_mlp.MemberRollout) is kept
        assert rollout.features.shape == (rows, numbers + 1)
        found.append((rollout.features_before(), rollout.features_after().detach()))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


def test_rollouts_whose_members_change_are_left_to_torch():
    dynamics = MLPDynamics(
        Settings(1, 16, "silu", "none", True), lambda: None, actions=1, embed=2, members=2
    )
    vector, member = torch.randn(200, 2), torch.arange(2).repeat_interleave(100)
    with torch.no_grad():
        kept = dynamics.start_rollout({"vector": vector, "member": member}, 3)
        mixed = dynamics.start_rollout({"vector": vector, "member": member.flip(0)}, 3)
        redrawn = dynamics.start_rollout({"vector": vector, "redraw": torch.ones(200)}, 3)
    assert isinstance(kept, member_mlp.MemberRollout)
    assert not isinstance(mixed, member_mlp.MemberRollout)
    assert not isinstance(redrawn, member_mlp.MemberRollout)
