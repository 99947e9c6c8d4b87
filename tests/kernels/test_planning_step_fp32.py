"""An imagined step and an MLP in one C call in fp32 equal what torch makes of the same weights."""

import pytest
import torch
from test_planning_step import SIZES, rssm_of

from worldmodel.kernels import packing, planning_step_fp32
from worldmodel.kernels.c_library import load_library
from worldmodel.model.dynamics import Rollout
from worldmodel.model.networks import MLP, apply_side_by_side
from worldmodel.spaces import map_state

pytestmark = pytest.mark.skipif(
    not hasattr(load_library(), "imagine_step_fp32"), reason="no compiler: torch does it all"
)


def roll_out(rssm, start, actions, begin):
    rollout, seen = begin(start, len(actions), torch.Generator().manual_seed(2)), []
    for action in actions:
        seen.append(rollout.features.clone())
        rollout.step(action)
    assert torch.equal(rollout.features_before(), torch.stack(seen))
    return rollout


@pytest.mark.parametrize("n", [64, 65, 107])
@pytest.mark.parametrize("latent", ["gaussian", "categorical", "deterministic"])
@pytest.mark.parametrize("size", [*SIZES, "odd"])
def test_a_rollout_without_gradients_takes_the_same_way(size, latent, n):
    deter, hidden, actions = {**SIZES, "odd": (33, 17, 5)}[size]
    rssm = rssm_of(deter, hidden, actions, latent)
    start = map_state(rssm.initial(n), torch.randn_like)
    given = torch.rand(4, n, actions) * 2 - 1
    with torch.no_grad():
        fast = roll_out(rssm, start, given, rssm.start_rollout)
        plain = roll_out(rssm, start, given, lambda *args: Rollout(rssm, *args[::2]))
    assert type(fast) is planning_step_fp32.PlanningRollout
    found, wanted = fast.features_after(), plain.features_after()
    # A categorical's draw on the edge between two classes may fall to either side.
    same = (found - wanted).abs().amax(-1) < 1e-4
    assert same.float().mean() >= (0.97 if latent == "categorical" else 1.0)


def test_it_steps_aside_where_it_is_not_wanted():
    rssm = rssm_of(*SIZES["small"], "gaussian")
    many, few = (map_state(rssm.initial(n), torch.randn_like) for n in (64, 63))
    fast = planning_step_fp32.PlanningRollout
    with torch.no_grad():
        assert type(rssm.start_rollout(many, 1)) is fast
        assert type(rssm.start_rollout(few, 1)) is Rollout
        with torch.autocast("cpu", torch.bfloat16):
            assert type(rssm.start_rollout(many, 1)) is not fast
    assert type(rssm.start_rollout(many, 1)) is Rollout


def test_threads_change_nothing():
    rssm, found = rssm_of(*SIZES["planet"], "gaussian"), []
    start = map_state(rssm.initial(200), torch.randn_like)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.no_grad():
            found.append(roll_out(rssm, start, torch.ones(3, 200, 6), rssm.start_rollout))
    torch.set_num_threads(before)
    assert torch.equal(*(rollout.features_after() for rollout in found))


@pytest.mark.parametrize("outputs", [1, 4, 5, 255])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("exact", [False, True])
def test_an_mlp_is_the_layers_one_after_another(layers, outputs, exact):
    torch.manual_seed(0)
    net = MLP(37, outputs, layers, 41, exact=exact)
    for norm in net.norms:
        norm.weight.data.uniform_(0.5, 1.5)
    net.out.bias.data.normal_()
    wide = torch.randn(3, 50, 60)
    x = wide[..., 9:46]  # rows that lie apart, as features do
    with torch.no_grad():
        wanted = net(x)
        with packing.fixed_weights():
            assert planning_step_fp32.is_packed(net, x)
            torch.testing.assert_close(net(x), wanted, rtol=1e-5, atol=1e-5)
            both = apply_side_by_side([net, net], x)
            torch.testing.assert_close(torch.stack(both), wanted.expand(2, -1, -1, -1))


def test_an_mlp_follows_its_weights_but_where_they_are_fixed():
    net, x = MLP(8, 2, 1, 16), torch.randn(64, 8)
    net.out.weight.data.normal_()
    with torch.no_grad(), packing.fixed_weights():
        first = net(x)
        net.out.bias.data += 1
        assert torch.equal(net(x), first)
    with torch.no_grad():
        torch.testing.assert_close(net(x), first + 1)
