"""Weights of losses that are learnt."""

import math

import pytest
import torch

from test_model import make, random_batch
from worldmodel.config import loading
from worldmodel.model.loss_balance import LossBalance
from worldmodel.model.world_model import BY_ROW


def test_it_begins_with_the_fixed_weights():
    _, fixed = make()
    _, learned = make("loss.balance=learned")
    learned.load_state_dict({**learned.state_dict(), **fixed.state_dict()})
    batch = random_batch()
    torch.manual_seed(1)
    want = fixed.loss(batch)[0]
    torch.manual_seed(1)
    found, metrics = learned.loss(batch)[:2]
    torch.testing.assert_close(found, want + 3 * math.log(2))  # three groups, s = 0
    assert [metrics[f"weight/{k}"].item() for k in ("kl", "observed", "reward")] == [1, 1, 1]


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_a_large_loss_gets_a_small_weight(size):
    balance = LossBalance(["reward", "cont"])
    optimizer = torch.optim.SGD(balance.parameters(), 0.5)
    for _ in range(500):
        optimizer.zero_grad()
        (balance.weigh("reward") * size + balance.penalty()).backward()
        optimizer.step()
    weight = balance.weigh("reward").item()
    # The derivative is zero: exp(-s) L = 1 / (1 + exp(-s))
    assert weight * size == pytest.approx(1 / (1 + weight), rel=1e-2)
    assert balance.weigh("cont") == 1.0


def test_terms_of_a_kl_share_a_weight_and_keep_their_ratio():
    balance = LossBalance(["dyn", "rep", "image/a", "vector/b", "reward", "cont", "ensemble"])
    with torch.no_grad():
        balance.logs["kl"].fill_(1.0)
    weights = {
        k: float(torch.as_tensor(balance.weigh(k)).detach())
        for k in ("dyn", "rep", "image/a", "vector/b", "cont")
    }
    assert weights["dyn"] == weights["rep"] == pytest.approx(math.exp(-1))
    assert weights["image/a"] == weights["vector/b"] == weights["cont"] == 1.0


def test_the_loss_of_a_row_has_the_weights_of_the_moment():
    _, model = make("loss.balance=learned")
    with torch.no_grad():
        model.balance.logs["reward"].fill_(0.7)
    total, metrics = model.loss(random_batch(), by_row=True)[:2]
    torch.testing.assert_close(metrics[BY_ROW].mean() + model.balance.penalty(), total)


def test_what_may_be_negative_or_is_priced_apart_keeps_its_weight():
    names = ["dyn", "imagined_reward", "imagined_cont", "bottleneck", "curvature"]
    names += ["decorrelation", "straightening", "transition_consistency"]
    names += ["transition_contrastive", "inverse"]
    groups = {"dyn": "kl", "imagined_reward": "reward", "transition_contrastive": "observed"}
    assert LossBalance(names).groups == groups | {"inverse": "observed"}


def test_a_log_density_is_not_balanced():
    with pytest.raises(loading.ConfigError, match="loss.balance: .* may be negative"):
        loading.parse(["pets", "--loss.balance", "learned"])
    assert loading.parse(["pets", "--loss.balance", "learned", "--mlp.noise", "none"])
