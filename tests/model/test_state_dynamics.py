"""The dynamics of observed vectors, and the members of an ensemble of any dynamics."""

import math

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state
from worldmodel.training.learner import Learner

B, T, A, N, K = 3, 7, 2, 5, 4
ENSEMBLE = [f"ensemble.size={K}", "ensemble.of=dynamics"]
STATE = [
    "model.dynamics=mlp",
    "env.obs=state",
    "loss.objective={}",
    "loss.overshooting=1",
    "mlp.layers=2",
    "mlp.units=16",
    "model.layers=1",
    "model.units=9",
    "replay.length=7",
    "run.precision=fp32",
]


def make(*overrides):
    torch.manual_seed(0)
    c = loading.parse([*STATE, *overrides])
    return c, build.make_model(c, ObservationSpace({"vector": N}), ActionSpace(A))


def make_batch(length=T, batch=B):
    """Sequences of a linear system: each step adds half of two actions and of nothing else."""
    g = torch.Generator().manual_seed(0)
    action = torch.rand(batch, length, A, generator=g) * 2 - 1
    push = torch.zeros(batch, length, N)
    push[..., :2] = 0.5 * action
    push[:, 0] = torch.randn(batch, N, generator=g)
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    return {
        "vector": push.cumsum(1),
        "prev_action": action,
        "reward": torch.randn(batch, length, generator=g),
        "is_first": first,
        "is_last": torch.zeros_like(first),
        "is_terminal": torch.zeros_like(first),
    }


def test_the_loss_is_the_negative_log_likelihood_of_what_was_seen():
    _, model = make(*ENSEMBLE)
    batch = make_batch()
    model.begin_update(batch, 0)
    _, post, prior = model.observe(batch)
    assert prior["mean"].shape == (B, T, K, N)
    normal = torch.distributions.Normal(prior["mean"], (0.5 * prior["log_var"]).exp())
    likely = normal.log_prob(batch["vector"].unsqueeze(-2)).sum(-1).mean(-1)
    want = -likely - 0.5 * N * math.log(2 * math.pi)
    torch.testing.assert_close(model.dynamics.kl(post, prior), want)
    losses, *_ = model.losses(batch)
    torch.testing.assert_close(losses["dyn"], want)
    assert model.free == -math.inf  # a likelihood may exceed one


@pytest.mark.parametrize(("residual", "scale"), [("true", "step_std"), ("false", "std")])
def test_predictions_are_in_units_of_the_data(residual, scale):
    """An untrained network: three times the spread is three times the mean and the deviation."""
    _, model = make(f"mlp.residual={residual}", "mlp.noise=gaussian")
    dynamics, spread = model.dynamics, torch.arange(1.0, N + 1)
    assert torch.equal(dynamics.standardize(spread), spread), "no data yet"
    state, action = {"vector": dynamics.mean.expand(B, N)}, torch.randn(B, A)
    before = dynamics.imagine_step(state, action)
    getattr(dynamics, scale).copy_(spread)
    after = dynamics.imagine_step(state, action)
    torch.testing.assert_close(after["mean"], before["mean"] * spread)
    torch.testing.assert_close(after["log_var"], before["log_var"] + 2 * spread.log())


def test_a_state_in_place_of_a_prior_predicts_that_nothing_moves():
    _, model = make()
    model.dynamics.step_std.copy_(torch.arange(1, N + 1) / 2)
    here, there = ({"vector": torch.randn(3, N)} for _ in range(2))
    normal = torch.distributions.Normal(there["vector"], model.dynamics.step_std)
    want = -normal.log_prob(here["vector"]).sum(-1) - 0.5 * N * math.log(2 * math.pi)
    torch.testing.assert_close(model.dynamics.kl(here, there), want)


def test_statistics_are_those_of_the_data():
    _, model = make()
    batch = make_batch()
    for update in range(3):
        model.begin_update(batch, update)
    rows = batch["vector"].flatten(0, 1)
    torch.testing.assert_close(model.dynamics.mean, rows.mean(0))
    torch.testing.assert_close(model.dynamics.std, rows.std(0, correction=0))
    steps = batch["vector"].diff(dim=1)
    torch.testing.assert_close(model.dynamics.step_std, steps.square().mean((0, 1)).sqrt())
    _, post, _ = model.observe(batch)
    feat = model.dynamics.features(post)
    means = torch.cat([torch.zeros(N), torch.ones(1)])  # a constant shows heads the scale
    torch.testing.assert_close(feat.mean((0, 1)), means, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.dynamics.restore(feat), batch["vector"])


def test_statistics_of_two_halves_are_those_of_the_whole():
    _, model = make()
    batch = make_batch(batch=6)
    for update, rows in enumerate((slice(0, 3), slice(3, 6))):
        model.begin_update({k: v[rows] for k, v in batch.items()}, update)
    torch.testing.assert_close(model.dynamics.std, batch["vector"].std((0, 1), correction=0))


def test_statistics_average_over_the_last_hundred_updates_or_so():
    _, model = make()
    dynamics, batch = model.dynamics, make_batch()
    dynamics.update_statistics(batch["vector"], batch["is_first"], 10_000, lambda x: x)
    rows, steps = batch["vector"].flatten(0, 1), batch["vector"].diff(dim=1)
    mean, variance = rows.mean(0), rows.var(0, correction=0)
    torch.testing.assert_close(dynamics.mean, 0.01 * mean)
    wanted = 0.99 + 0.01 * variance + 0.99 * 0.01 * mean.square()  # of a mixture: 99 to 1
    torch.testing.assert_close(dynamics.std.square(), wanted)
    wanted = 0.99 + 0.01 * steps.square().mean((0, 1))
    torch.testing.assert_close(dynamics.step_std.square(), wanted)


def test_vectors_in_tiny_units_are_standardized_and_constant_ones_are_not_divided_by_zero():
    _, model = make()
    dynamics = model.dynamics
    for std, spread in ((1.5e-6, 1.5e-6), (0.0, 1e-6)):
        for statistic in (dynamics.std, dynamics.step_std):
            statistic.fill_(std)
        torch.testing.assert_close(dynamics.scale, torch.full((N,), spread))
        moved = dynamics.mean + 3 * spread
        torch.testing.assert_close(dynamics.standardize(moved), torch.full((N,), 3.0))


def test_a_prior_knows_the_step_before_and_nothing_else():
    _, model = make("ensemble.size=2", "ensemble.of=dynamics")
    batch = make_batch()
    batch["is_first"][1, 4] = True
    model.begin_update(batch, 0)
    _, _, prior = model.observe(batch)
    for key, at in (("vector", 2), ("prev_action", 3)):
        moved = {k: v.clone() for k, v in batch.items()}
        moved[key][:, at] += 1.0
        _, _, other = model.observe(moved)
        same = (prior["mean"] == other["mean"]).flatten(2).all(-1).all(0)
        assert same.tolist() == [t != 3 for t in range(T)], key
    # Nothing predicts an episode's first vector: the data's own mean and variance
    assert torch.equal(prior["mean"][1, 4, 0], model.dynamics.mean)
    torch.testing.assert_close(prior["log_var"][1, 4, 0], 2 * model.dynamics.std.log())
    assert not torch.equal(prior["mean"][0, 4, 0], model.dynamics.mean)


@pytest.mark.parametrize("noise", ["gaussian", "none"])
def test_a_rollout_keeps_its_member_and_a_step_alone_changes_it(noise):
    _, model = make(*ENSEMBLE, f"mlp.noise={noise}")
    dynamics = model.dynamics
    dynamics.step_std.fill_(0.5)
    state = {"vector": torch.randn(8, N)}
    actions = torch.rand(8, 3, A)
    kept = {**state, "member": torch.arange(8) % K}
    whole = dynamics.imagine(kept, actions, torch.Generator().manual_seed(1))
    one, g = kept, torch.Generator().manual_seed(1)
    for t in range(3):
        mean = dynamics.predict_members(dynamics.features(one), actions[:, t])
        one = dynamics.imagine_step(one, actions[:, t], g)
        torch.testing.assert_close(one["vector"], whole["vector"][:, t])
        own = mean[kept["member"], torch.arange(8)]
        torch.testing.assert_close(dynamics.standardize(one["mean"]), own)
        assert torch.equal(one["vector"], one["mean"]) == (noise == "none")
    free = dynamics.imagine_step(state, actions[:, 0], torch.Generator().manual_seed(1))
    assert set(free) == {"vector", "mean", "log_var"}
    means = dynamics.predict_members(dynamics.features(state), actions[:, 0])
    nearest = (means - dynamics.standardize(free["mean"])).abs().sum(-1).argmin(0)
    assert torch.bincount(nearest, minlength=K).tolist() == [2] * K  # shared out evenly


def test_members_learn_a_linear_system_and_disagree_where_they_saw_nothing():
    c, model = make(*ENSEMBLE, "optim.lr=3e-3", "optim.eps=1e-8", "mlp.noise=none")
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    batch = make_batch(length=20, batch=24)
    for _ in range(300):
        learner.update(batch)
    dynamics = model.dynamics
    start = {"vector": batch["vector"][:, 3]}
    far = {"vector": start["vector"] + 8.0}
    action = torch.rand(24, A) * 2 - 1
    with torch.no_grad():
        ahead = dynamics.imagine(start, action.unsqueeze(1).expand(-1, 4, -1))["vector"]
        near, away = (
            dynamics.predict_members(dynamics.features(s), action).std(0).mean()
            for s in (start, far)
        )
    want = start["vector"].clone()
    want[:, :2] += 4 * 0.5 * action
    moved = (want - start["vector"]).abs().mean()
    assert (ahead[:, -1] - want).abs().mean() < 0.15 * moved
    assert away > 3 * near


def test_a_head_sees_how_large_a_vector_is():
    """Its first norm, after a layer without bias, shows no more than the vector's direction."""
    _, model = make("model.units=32")
    optimizer = torch.optim.Adam(model.reward.parameters(), 1e-2)
    for _ in range(200):
        vector = torch.randn(256, N)
        size = vector.norm(dim=-1) - 2
        loss = model.reward.loss(model.dynamics.features({"vector": vector}), size).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * 0.5 * size.var()


def test_bootstrap_gives_each_member_its_own_resample():
    _, model = make(*ENSEMBLE, "ensemble.bootstrap=true")
    counts = torch.tensor([2.0, 0.0, 1.0, 0.0]).expand(B, T, K)
    batch = {**make_batch(), "resamples": counts}
    model.begin_update(batch, 0)
    losses, *_ = model.losses(batch)
    _, post, prior = model.observe(batch)
    own = [model.dynamics.kl(*part) for part in split_members(post, prior)]
    torch.testing.assert_close(losses["dyn"], (2 * own[0] + own[2]) / K)
    grads = torch.autograd.grad(losses["dyn"].sum(), model.dynamics.net.hidden[0].weight)[0]
    assert [bool(g.any()) for g in grads] == [True, False, True, False]


def split_members(post, prior):
    """Posterior, and the prior of each member alone."""
    return [(post, {k: v[:, :, m] for k, v in prior.items()}) for m in range(K)]


def make_rssm(*overrides):
    torch.manual_seed(0)
    c = loading.parse(
        [
            "debug",
            *ENSEMBLE,
            "env.size=[32, 32]",
            "model.deter=12",
            "model.hidden=14",
            "model.stoch=6",
            *overrides,
        ]
    )
    return c, build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(A))


@pytest.mark.parametrize("latent", ["gaussian", "categorical", "deterministic"])
def test_an_rssm_with_members_shares_its_posterior(latent):
    _, model = make_rssm(f"model.latent={latent}")
    batch = {**make_batch(), "image": torch.randint(256, (B, T, 32, 32, 3), dtype=torch.uint8)}
    del batch["vector"]
    _, post, prior = model.observe(batch)
    dynamics = model.dynamics
    found = dynamics.kl(post, prior)
    key = dynamics.latent.dist_keys[0]
    assert prior[key].dim() == post[key].dim() + 1 and found.shape == (B, T)
    each = [dynamics.latent.kl(*part) for part in split_members(post, prior)]
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[1])
    # A state imagined by member k has the prior of member k.
    here = map_state(post, lambda v: v[:, 2].detach())
    action = torch.rand(B, A)
    means = dynamics.predict_members(dynamics.features(here), action)
    assert means.shape == (K, B, dynamics.latent.size)
    for k in range(K):
        own = {**here, "member": torch.full((B,), k)}
        after = dynamics.imagine_step(own, action)
        mean = dynamics.latent.compute_mean(dynamics.predict_latent(after))
        torch.testing.assert_close(mean, means[k])


def test_every_member_of_an_rssm_is_trained():
    c, model = make_rssm("loss.free=0.0", "loss.overshooting=2")
    batch = {**make_batch(), "image": torch.randint(256, (B, T, 32, 32, 3), dtype=torch.uint8)}
    del batch["vector"]
    model.loss(batch)[0].backward()
    for p in model.dynamics.prior_net.parameters():
        assert p.grad.flatten(1).abs().sum(1).gt(0).all()


def test_known_rewards_and_ends_are_not_learnt():
    torch.manual_seed(0)
    c = loading.parse(["pets"])
    model = build.make_model(c, ObservationSpace({"vector": 4}), ActionSpace(1))
    model.dynamics.std.fill_(0.5)
    vector = torch.tensor([[0.0, 1.0, 0.1, 0.0], [0.0, 1.0, 0.3, 0.0], [2.5, 0.0, 0.0, 0.0]])
    feat = model.dynamics.features({"vector": vector})
    reward, cont = model.predict_for_planning(feat)
    assert reward.tolist() == [1, 1, 1] and cont.tolist() == [1, 0, 0]
    assert not [n for n, _ in model.named_parameters() if n.startswith(("reward", "cont"))]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["model.dynamics=mlp", "loss.objective={}"], "env.obs"),
        (["model.dynamics=mlp", "env.obs=state"], "loss.objective"),
        (["model.dynamics=transformer", "ensemble.size=3", "ensemble.of=dynamics"], "ensemble.of"),
        (["ensemble.bootstrap=true"], "ensemble.bootstrap"),
        ([*STATE, "ensemble.size=2"], "ensemble.of"),
        (["ensemble.size=5", "ensemble.of=dynamics", "planner.particles=12"], "planner.particles"),
        (["planner.pessimism=1.0"], "planner.pessimism"),
        ([*STATE, "model.reward_head=known", "env.task=catcher"], "model.reward_head"),
        (["model.cont_head=known", "env.task=cartpole"], "model.cont_head"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(words, key):
    with pytest.raises(loading.ConfigError, match=key.replace(".", r"\.")):
        loading.parse(words)
