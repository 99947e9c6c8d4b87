"""An imagined step and an MLP in one C call equal what torch makes of the same weights."""

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.kernels import packing, planning_step
from worldmodel.model.dynamics import Rollout
from worldmodel.model.networks import MLP, apply_side_by_side
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state

pytestmark = pytest.mark.skipif(
    not planning_step.is_available(),
    reason="no compiler, or no 512-bit bf16 products: torch does it all",
)
# Deter, hidden, actions
SIZES = {
    "small": (40, 24, 3),
    "planet": (200, 200, 6),
    "wide": (96, 512, 1),
}
NOTHING = 77.0


def rssm_of(deter, hidden, actions, latent):
    c = loading.parse(
        [
            "debug",
            f"model.latent={latent}",
            f"model.deter={deter}",
            f"model.hidden={hidden}",
            "model.stoch=6",
        ]
    )
    torch.manual_seed(0)
    rssm = build.make_model(
        c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(actions)
    ).dynamics
    for name, p in rssm.named_parameters():
        if "norm" in name:
            p.data.uniform_(0.5, 1.5)
        elif "bias" in name:
            p.data.normal_()
    return rssm


def close(got, want, most=1e-2):
    assert got.shape == want.shape
    assert (got.float() - want.float()).norm() <= most * want.float().norm() + 1e-6


def rows_of(rssm, n):
    """Rows whose inputs are missing, their fp32 deter, and the rows to come."""
    deter = torch.randn(n, rssm.gru.size)
    stoch = torch.randn(n, rssm.latent.size)
    missing = torch.full((n, rssm.from_action.out_features), NOTHING)
    row = torch.cat([missing, deter, stoch], 1).bfloat16()
    return row, deter, torch.full_like(row, NOTHING)


@pytest.mark.parametrize("n", [1, 11, 12, 25, 64])
@pytest.mark.parametrize("latent", ["gaussian", "categorical", "deterministic"])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_is_the_cells_and_touches_nothing_else(size, latent, n):
    rssm = rssm_of(*SIZES[size], latent)
    deter, hidden = rssm.gru.size, rssm.from_action.out_features
    row, old, following = rows_of(rssm, n)
    action, new = torch.rand(n, SIZES[size][2]) * 2 - 1, torch.full_like(old, NOTHING)
    stoch = row[:, hidden + deter :].clone()
    planning_step.PackedStep(rssm).run(
        row, action, old, following, new, torch.Generator().manual_seed(5)
    )
    with torch.no_grad():
        state = {"deter": old, "stoch": stoch.float().view(n, *rssm.latent.shape)}
        want = rssm._advance(state, rssm.from_action(action))
        close(new, want)
        drawn = rssm.latent.sample(rssm.prior_net(want), torch.Generator().manual_seed(5)).flatten(
            1
        )
    got = following[:, hidden + deter :].float()
    if latent == "categorical":  # a draw on the edge between two classes may fall to either side
        assert ((got != drawn).sum() <= 4) and torch.equal(
            got.view(n, 6, -1).sum(-1), torch.ones(n, 6)
        )
    else:
        close(got, drawn)
    assert torch.equal(following[:, hidden : hidden + deter], new.bfloat16())
    assert (following[:, :hidden] == NOTHING).all()
    assert torch.equal(row[:, hidden : hidden + deter], old.bfloat16()) and torch.equal(
        row[:, hidden + deter :], stoch
    )


def test_threads_change_nothing():
    rssm, found = rssm_of(*SIZES["planet"], "gaussian"), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.manual_seed(1)
        row, old, following = rows_of(rssm, 200)
        torch.set_num_threads(threads)
        planning_step.PackedStep(rssm).run(
            row, torch.ones(200, 6), old, following, new := torch.empty_like(old)
        )
        found.append(new)
    torch.set_num_threads(before)
    assert torch.equal(*found)


# A categorical's draw on the edge between two classes may fall to either side, and lead elsewhere.
@pytest.mark.parametrize("latent", ["gaussian", "deterministic"])
def test_a_rollout_without_gradients_takes_the_same_way(latent):
    rssm = rssm_of(*SIZES["small"], latent)
    start = map_state(rssm.initial(5), torch.randn_like)
    actions, found = torch.randn(7, 5, 3), []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for begin in (rssm.start_rollout, lambda state, _, dice: Rollout(rssm, state, dice)):
            rollout = begin(start, 7, torch.Generator().manual_seed(2))
            features = []
            for action in actions:
                features.append(rollout.features.clone())
                rollout.step(action)
            assert torch.equal(rollout.features_before(), torch.stack(features))
            found.append((type(rollout), rollout.features_before(), rollout.features_after()))
    assert [kind for kind, *_ in found] == [planning_step.PlanningRollout, Rollout]
    for got, want in zip(found[0][1:], found[1][1:], strict=True):
        close(got, want, 2e-2)


@pytest.mark.parametrize("change", ["model.transition=ssm", "model.blocks=2", "model.hidden=23"])
def test_other_cells_and_sizes_are_left_to_torch(change):
    c = loading.parse(["debug", change])
    dynamics = build.make_dynamics(c, 3, 10)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert type(dynamics.start_rollout(dynamics.initial(2), 1)) is Rollout


def test_rollouts_follow_the_weights_but_where_they_are_fixed():
    rssm = rssm_of(*SIZES["small"], "gaussian")

    def roll_out():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rollout = rssm.start_rollout(rssm.initial(4), 1, torch.Generator().manual_seed(2))
            rollout.step(torch.ones(4, 3))
            return rollout.features_after()

    first = roll_out()
    with packing.fixed_weights():
        assert torch.equal(first, roll_out())
        rssm.from_action.weight.data += 1
        # The promise broken: it is what makes planning quick.
        assert torch.equal(first, roll_out())
    assert not torch.equal(first, roll_out())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("layers", "units", "outputs"), [(1, 40, 1), (2, 200, 3), (3, 64, 255)])
def test_a_head_answers_as_its_network_does(layers, units, outputs, exact):
    torch.manual_seed(0)
    net = MLP(46, outputs, layers, units, exact=exact)
    for norm in net.norms:
        norm.weight.data.uniform_(0.5, 1.5)
    net.out.bias.data.normal_()
    whole_rows = torch.randn(5, 7, 60).bfloat16()
    feat = whole_rows[..., 10:56]  # apart, as features lie in rows
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), packing.fixed_weights():
        assert planning_step.PackedMLP.supports(net, feat)
        got = net(feat)
        both = apply_side_by_side([net, net], feat)
    want = net(feat.float())
    assert got.dtype == (torch.float32 if exact else torch.bfloat16)
    close(got, want)
    assert all(torch.equal(got, x) for x in both)


def test_who_wants_gradients_or_changes_weights_is_left_to_torch():
    net, feat = MLP(8, 1, 1, 8), torch.randn(3, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        with packing.fixed_weights():
            assert not planning_step.PackedMLP.supports(net, feat)
            assert net(feat).requires_grad
        with torch.no_grad():
            assert not planning_step.PackedMLP.supports(net, feat)
            with packing.fixed_weights():
                assert planning_step.PackedMLP.supports(
                    net, feat
                ) and not planning_step.PackedMLP.supports(net, feat.float())
                assert not planning_step.PackedMLP.supports(MLP(7, 1, 1, 8), feat[:, :7])
                assert not planning_step.PackedMLP.supports(MLP(8, 1, 1, 7), feat)


def test_what_is_made_of_fixed_weights_is_packed_once_and_forgotten_afterwards():
    made = []
    owner = object()

    def make():
        made.append(1)
        return len(made)

    with packing.fixed_weights():
        with packing.fixed_weights():
            assert packing.keep_while_fixed(owner, make) == 1
        assert packing.keep_while_fixed(owner, make) == 1
    assert packing.keep_while_fixed(owner, make) == 2
