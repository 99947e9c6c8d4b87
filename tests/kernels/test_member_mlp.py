"""The members' networks in C give what torch gives, for any number of rows and threads."""

import pytest
import torch

from worldmodel.kernels import member_mlp
from worldmodel.kernels.c_library import load_library
from worldmodel.model.member_networks import MemberMLP

pytestmark = pytest.mark.skipif(
    not hasattr(load_library(), "run_members"), reason="no C compiler on this machine"
)


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


def test_networks_that_it_does_not_have_are_left_to_torch():
    x = torch.randn(2, 100, 5)
    plain, normed = MemberMLP(2, 5, 4, 1, 16), MemberMLP(2, 5, 4, 1, 16, norm=True)
    with torch.no_grad():
        assert member_mlp.run_members(plain, x) is not None
        assert member_mlp.run_members(normed, x) is None
        assert member_mlp.run_members(plain, x[:, :10]) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert member_mlp.run_members(plain, x) is None
    assert member_mlp.run_members(plain, x) is None


def test_weights_that_moved_are_packed_anew():
    net, x = MemberMLP(2, 5, 4, 1, 16), torch.randn(2, 100, 5)
    with torch.no_grad():
        before = net(x)
        net.out.bias.add_(1.0)
        torch.testing.assert_close(net(x), before + 1)
