"""One-step heads: each learns the next latent, alone; they disagree about what no data shows."""

import pytest
import torch
import torch.nn.functional as F

from test_model import KINDS, A, B, T, make, name_kind, random_batch
from worldmodel.config import loading
from worldmodel.model.ensembles import RESAMPLES, OneStepHeads, measure_disagreement
from worldmodel.model.member_networks import MemberMLP

K, S, FEAT = 5, 2, 4
HEADS = ["ensemble.size=5", "ensemble.units=11"]


def make_heads(*overrides):
    torch.manual_seed(0)
    keys = ["ensemble.size=5", "ensemble.units=32", *overrides]
    return OneStepHeads(FEAT, A, S, loading.parse(keys).ensemble)


def test_disagreement_is_the_std_over_members_averaged_over_the_latent():
    members = torch.tensor([[[0.0, 1.0, 7.0]], [[2.0, 1.0, 1.0]]])  # (K,1,S): stds 1, 0, 3
    torch.testing.assert_close(measure_disagreement(members), torch.tensor([4 / 3]))


def test_masks_of_one_network_are_members_whose_units_are_missing():
    torch.manual_seed(0)
    net, x = MemberMLP(1, 3, S, 2, 7), torch.randn(6, 3)
    masks = (torch.rand(K, 1, 7) > 0.4).float()
    found = net.run_masked(x.expand(K, -1, -1), masks)
    (first, second), out = net.hidden, net.out
    for k in range(K):
        hidden = F.silu(x @ first.weight[0] + first.bias[0]) * masks[k]
        hidden = F.silu(hidden @ second.weight[0] + second.bias[0]) * masks[k]
        torch.testing.assert_close(found[k], hidden @ out.weight[0] + out.bias[0])


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_heads_of_every_latent_teach_themselves_alone(kind):
    _, model = make(*kind, *HEADS)
    losses, metrics, post, feat = model.losses(random_batch())
    assert losses["ensemble"].shape == (B, T) and metrics["disagreement"] > 0
    losses["ensemble"].mean().backward()
    taught = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {"ensemble"}
    members = model.predict_members(feat, torch.zeros(B, T, A))
    assert members.shape == (5, B, T, model.dynamics.mean_latent(post).shape[-1])


def test_the_loss_is_the_summed_squared_error_of_the_step_predicted():
    heads = make_heads()
    feat, target, batch = torch.randn(B, T, FEAT), torch.randn(B, T, S), random_batch()
    losses, _ = heads.loss(batch, feat, target)
    members = heads.predict(feat[0, 2], batch["prev_action"][0, 3])
    by_hand = 0.5 * (members - target[0, 3]).square().sum()
    torch.testing.assert_close(losses["ensemble"][0, 3], by_hand)
    assert not losses["ensemble"][:, 0].any()  # nothing was before
    assert losses["ensemble"][1, 4] == 0 and losses["ensemble"][0, 4] > 0  # 1, 4 is a start


def test_the_disagreement_shown_is_a_mean_over_predicted_steps_and_keeps_no_graph():
    heads, batch = make_heads(), random_batch()
    feat, target = torch.randn(B, T, FEAT), torch.randn(B, T, S)
    shown = heads.loss(batch, feat, target)[1]["disagreement"]
    assert not shown.requires_grad
    members = heads.predict(feat[:, :-1], batch["prev_action"][:, 1:]).detach()
    predicted = ~batch["is_first"][:, 1:].bool()
    assert not predicted.all()
    torch.testing.assert_close(shown, measure_disagreement(members)[predicted].mean())


def test_a_member_learns_only_from_the_rows_that_its_resample_holds():
    heads = make_heads("ensemble.bootstrap=true")
    batch = random_batch()
    counts = torch.zeros(B, T, K)
    counts[0, 3, 1] = 2.0
    feat, target = torch.randn(B, T, FEAT), torch.randn(B, T, S)
    loss = heads.loss({**batch, RESAMPLES: counts}, feat, target)[0]["ensemble"]
    error = heads.predict(feat[0, 2], batch["prev_action"][0, 3])[1] - target[0, 3]
    torch.testing.assert_close(loss[0, 3], error.square().sum())
    assert loss.count_nonzero() == 1
    loss.sum().backward()
    taught = heads.net.out.weight.grad.abs().sum((1, 2)) > 0
    assert taught.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("kind", ["ensemble.bootstrap=false", "ensemble.dropout=0.2"])
def test_members_agree_where_there_are_data_and_disagree_elsewhere(kind):
    """Data lie where every feature is in [-1, 1]."""
    heads = make_heads(kind)
    optimizer = torch.optim.Adam(heads.parameters(), 3e-3)
    for _ in range(300):
        feat = torch.rand(8, T, FEAT) * 2 - 1
        action = torch.rand(8, T, A) * 2 - 1
        target = torch.zeros(8, T, S)
        target[:, 1:] = torch.sin(2 * feat[:, :-1, :S]) + action[:, 1:, :1]
        batch = {"prev_action": action, "is_first": torch.zeros(8, T, dtype=torch.bool)}
        optimizer.zero_grad()
        heads.loss(batch, feat, target)[0]["ensemble"].mean().backward()
        optimizer.step()
    feat = torch.rand(200, FEAT) * 2 - 1
    known, unknown = (
        measure_disagreement(heads.predict(x, torch.zeros(200, A))).mean()
        for x in (feat, 4 + feat)
    )
    assert unknown > 2 * known


def test_the_masks_of_dropout_stay_the_same_and_leave_one_network():
    heads = make_heads("ensemble.dropout=0.3")
    feat, action = torch.randn(3, FEAT), torch.randn(3, A)
    members = heads.predict(feat, action)
    assert members.shape == (K, 3, S) and heads.net.members == 1
    assert torch.equal(members, heads.predict(feat, action))
    again = make_heads("ensemble.dropout=0.3", "ensemble.layers=2")
    again.load_state_dict(heads.state_dict())
    assert torch.equal(members, again.predict(feat, action))


def test_no_reward_reaches_the_representation_of_a_reward_free_model():
    _, model = make("loss.reward_free=true")
    losses, *_ = model.losses(random_batch())
    losses["reward"].mean().backward()
    taught = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {"reward"}
