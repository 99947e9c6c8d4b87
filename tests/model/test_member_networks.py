"""Networks of several members: each row meets the right one."""

import pytest
import torch

from test_model import A, make
from worldmodel.model.dynamics import draw_members
from worldmodel.model.member_networks import MemberMLP

K, N, IN, OUT = 3, 10, 4, 5


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("member", [[0, 1, 2] * 3 + [1], [2] * 10, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]])
def test_each_row_goes_through_its_own_member(norm, member):
    net = MemberMLP(K, IN, OUT, 2, 7, norm)
    for p in net.parameters():
        p.data.add_(torch.randn_like(p) * 0.3)
    x, member = torch.randn(N, IN), torch.tensor(member)
    every = net.run_all(x.view(2, 5, IN))
    assert every.shape == (2, 5, K, OUT)
    each = net.run_each(x, member)
    torch.testing.assert_close(each, every.flatten(0, 1)[torch.arange(N), member])
    for k in range(K):  # by hand
        h = x
        for i, layer in enumerate(net.hidden):
            h = h @ layer.weight[k] + layer.bias[k]
            if norm:
                h = h / (h.square().mean(-1, keepdim=True) + 1e-4).sqrt() * net.scales[i][k]
            h = h * h.sigmoid()
        torch.testing.assert_close(
            h @ net.out.weight[k] + net.out.bias[k], every.flatten(0, 1)[:, k]
        )


def test_a_single_member_takes_every_row():
    net, x = MemberMLP(1, 3, 2, 1, 8), torch.randn(5, 3)
    found = net.run_each(x, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(found, net.run_all(x)[:, 0])


def test_a_single_member_waits_for_no_values_so_that_graphs_can_capture_it():
    """A tensor on the device `meta` has none."""
    with torch.device("meta"):
        net, member = MemberMLP(1, 3, 2, 1, 8), torch.zeros(5, dtype=torch.long)
        assert net.run_each(torch.empty(5, 3), member).shape == (5, 2)
    with pytest.raises(RuntimeError):
        member.tolist()


def test_a_row_moves_the_weights_of_its_own_member_alone():
    net = MemberMLP(K, IN, OUT, 1, 7)
    net.run_each(torch.randn(4, IN), torch.tensor([1, 1, 1, 1])).sum().backward()
    for p in net.parameters():
        assert p.grad[1].abs().sum() > 0 and not p.grad[[0, 2]].any()


def test_members_differ_from_the_start():
    net = MemberMLP(K, IN, OUT, 1, 7)
    found = net.run_all(torch.randn(6, IN))
    assert all(not torch.allclose(found[:, 0], found[:, k]) for k in (1, 2))


def test_random_members_are_shared_out_evenly_and_obey_the_seed():
    draw = [
        draw_members(12, 4, torch.Generator().manual_seed(s), torch.device("cpu"))
        for s in (0, 0, 1)
    ]
    assert torch.bincount(draw[0]).tolist() == [3] * 4
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    g = torch.Generator().manual_seed(0)
    single = torch.cat([draw_members(1, 4, g, torch.device("cpu")) for _ in range(400)])
    assert (torch.bincount(single, minlength=4) > 70).all()


@pytest.mark.parametrize(
    "kind",
    [
        (),
        (
            *("model.dynamics=mlp", "env.obs=state", "loss.objective={}"),
            *("loss.overshooting=1", "mlp.noise=none"),
        ),
    ],
    ids=["rssm", "mlp"],
)
@torch.no_grad()
def test_a_rollout_that_is_imagined_in_parts_keeps_its_members(kind):
    """As the actions of a policy are given: one step after another."""
    _, model = make(*kind, f"ensemble.size={K}", "ensemble.of=dynamics")
    dynamics, generator = model.dynamics, torch.Generator().manual_seed(0)
    state, kept = dynamics.initial(N), []
    for _ in range(4):
        found = dynamics.imagine(state, torch.randn(N, 1, A), generator)
        state = {k: v[:, 0] for k, v in found.items()}
        kept.append(state["member"].tolist())
    assert kept[1:] == kept[:-1] and len({*kept[0]}) == K
