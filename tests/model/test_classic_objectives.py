"""The objectives of control with linearised latents, against their equations in plain NumPy."""

import json

import numpy as np
import pytest
import torch

from test_model import B, T, make, random_batch
from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.objectives.decorrelation import (
    measure_correlation,
    measure_narrowness,
)
from worldmodel.model.objectives.straightening import LEAST_SPEED, compute_cosine
from worldmodel.spaces import ActionSpace

DYNAMICS = ("rssm", "transformer", "locally_linear")
LINEARISABLE = [
    ("model.dynamics=rssm", "model.transition=rssm", "model.latent=gaussian"),
    ("model.dynamics=rssm", "model.transition=rssm", "model.latent=categorical"),
    ("model.dynamics=rssm", "model.transition=ssm", "model.latent=gaussian"),
    ("model.dynamics=rssm", "model.transition=rnn", "model.latent=deterministic"),
    ("model.dynamics=locally_linear", "locally_linear.units=11"),
]


def evaluate(name, *overrides, batch=None, space=None):
    """The model, its context and the objective's losses on a batch."""
    _, model = make(f"loss.objective={{{name}: 1.0}}", "loss.probe=false", *overrides, space=space)
    batch = batch or random_batch()
    embed, post, prior = model.observe(batch)
    ctx = model._make_context(batch, embed, post, prior, model.dynamics.features(post))
    return model, ctx, model.objectives[name](ctx)


def to_numpy(x):
    return x.detach().double().numpy()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_straightening_is_one_minus_the_cosine_of_successive_velocities(dynamics):
    _, ctx, (losses, _) = evaluate("straightening", f"model.dynamics={dynamics}")
    z, first = to_numpy(ctx.post["mean"]), ctx.batch["is_first"]
    for b in range(B):
        for t in range(T):
            want = 0.0
            if t >= 2 and not first[b, t - 1 : t + 1].any():
                v, w = z[b, t - 1] - z[b, t - 2], z[b, t] - z[b, t - 1]
                want = 1 - v @ w / (np.linalg.norm(v) * np.linalg.norm(w))
            assert losses["straightening"][b, t].item() == pytest.approx(want, abs=1e-3), (b, t)


def test_paths_become_straight_and_what_stands_still_has_no_gradient():
    torch.manual_seed(0)
    z = torch.randn(4, 6, 3, requires_grad=True)
    start = z.detach().clone()
    step = torch.optim.Adam([z], lr=0.05)
    for _ in range(300):
        velocity = z[:, 1:] - z[:, :-1]
        loss = (1 - compute_cosine(velocity[:, :-1], velocity[:, 1:])).mean()
        step.zero_grad()
        loss.backward()
        step.step()
    assert loss < 1e-2 and (z.detach() - start).norm() > 1
    still = torch.zeros(5, 3, requires_grad=True)
    compute_cosine(still, torch.randn(5, 3)).sum().backward()
    assert still.grad.norm(dim=-1).max() <= 1.01 / LEAST_SPEED


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_decorrelation_is_the_mean_squared_correlation_of_different_coordinates(dynamics):
    _, ctx, (losses, _) = evaluate("decorrelation", f"model.dynamics={dynamics}")
    z = to_numpy(ctx.post["mean"]).reshape(B * T, -1)
    found = np.corrcoef(z.T)
    want = (found**2)[~np.eye(len(found), dtype=bool)].mean()
    assert losses["decorrelation"].shape == (B, T)
    assert to_numpy(losses["decorrelation"]) == pytest.approx(want, rel=1e-3)


def test_decorrelation_with_a_spread_adds_how_narrow_the_coordinates_are():
    _, ctx, (losses, _) = evaluate("decorrelation", "decorrelation.spread=2.0")
    z = to_numpy(ctx.post["mean"]).reshape(B * T, -1)
    narrow = np.maximum(0, 1 - z.std(0) / 2.0).mean()
    found = np.corrcoef(z.T)
    want = narrow + (found**2)[~np.eye(len(found), dtype=bool)].mean()
    assert narrow > 0.1
    assert losses["decorrelation"][0, 0].item() == pytest.approx(want, rel=1e-3)
    assert measure_narrowness(3 * torch.randn(100, 4), 1.0) == 0.0


def test_decorrelation_takes_equal_coordinates_apart():
    torch.manual_seed(0)
    shared = torch.randn(64, 1)
    z = (shared + 0.1 * torch.randn(64, 3)).requires_grad_()
    step, first = torch.optim.Adam([z], lr=0.05), None
    for _ in range(200):
        loss = measure_correlation(z)
        first = loss.item() if first is None else first
        step.zero_grad()
        loss.backward()
        step.step()
    assert first > 0.9 and loss < 1e-2
    assert measure_correlation(torch.randn(64, 1)) < 1e-5


@pytest.mark.parametrize("kind", LINEARISABLE, ids=lambda k: "-".join(w.split("=")[1] for w in k))
def test_features_are_predicted_as_imagination_expects_them(kind):
    """`predict_features` from a posterior is the mean of the step imagined from it."""
    _, ctx, _ = evaluate("curvature", *kind)
    dynamics = ctx.parts.dynamics
    state, action = {k: v[:, 2] for k, v in ctx.post.items()}, ctx.batch["prev_action"][:, 3]
    imagined = dynamics.imagine_step(state, action)
    wanted = dynamics.expected_features({**imagined, **dynamics.predict_latent(imagined)})
    torch.testing.assert_close(dynamics.predict_features(ctx.feat[:, 2], action), wanted)


@pytest.mark.parametrize("kind", LINEARISABLE, ids=lambda k: "-".join(w.split("=")[1] for w in k))
def test_the_linearization_is_the_limit_of_small_moves(kind):
    """Of the whole step by difference quotients; locally linear dynamics hold A, B and o."""
    _, ctx, _ = evaluate("curvature", *kind)
    dynamics = ctx.parts.dynamics
    feat, action = ctx.feat[:, 2].detach(), ctx.batch["prev_action"][:, 3]
    change, push = torch.randn_like(feat), torch.randn_like(action)
    found = dynamics.apply_linearization(feat, action, change, push)
    if "locally_linear" in kind[0]:
        a, b, _ = dynamics.linearize(feat, action)
        wanted = (a @ change[..., None] + b @ push[..., None]).squeeze(-1)
    else:
        h = 1e-2
        pair = [dynamics.predict_features(feat + s * change, action + s * push) for s in (h, -h)]
        wanted = (pair[0] - pair[1]) / (2 * h)
    assert wanted.abs().mean() > 0.05
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("kind", LINEARISABLE, ids=lambda k: "-".join(w.split("=")[1] for w in k))
def test_curvature_is_what_the_linearization_misses(kind):
    torch.manual_seed(7)
    model, ctx, _ = evaluate("curvature", *kind, "curvature.radius=0.5")
    dynamics, first = model.dynamics, ctx.batch["is_first"]
    torch.manual_seed(3)
    loss = model.objectives["curvature"](ctx)[0]["curvature"]
    torch.manual_seed(3)
    e = 0.5 * torch.randn(B, T - 1, dynamics.feature_size)
    d = 0.5 * torch.randn(B, T - 1, 2)
    for b in range(B):
        for t in range(T):
            want = 0.0
            if t and not first[b, t]:
                z, a = ctx.feat[b, t - 1].detach(), ctx.batch["prev_action"][b, t]
                if "locally_linear" in kind[0]:
                    by_z, by_a, _ = dynamics.linearize(z, a)
                else:
                    by_z, by_a = torch.autograd.functional.jacobian(
                        dynamics.predict_features, (z, a)
                    )
                moves = e[b, t - 1], d[b, t - 1]
                moved = dynamics.predict_features(z + moves[0], a + moves[1])
                linear = to_numpy(by_z) @ to_numpy(moves[0]) + to_numpy(by_a) @ to_numpy(moves[1])
                missed = to_numpy(moved) - to_numpy(dynamics.predict_features(z, a)) - linear
                want = (missed**2).sum()
            assert loss[b, t].item() == pytest.approx(want, rel=1e-3, abs=1e-5), (b, t)
    assert loss.sum() > 0


@pytest.mark.parametrize("detach", [True, False])
def test_curvature_trains_the_states_only_where_it_is_told_to(detach):
    """And its derivative is right, by difference quotients of a weight."""
    model, ctx, (losses, _) = evaluate("curvature", f"curvature.detach={str(detach).lower()}")
    losses["curvature"].sum().backward(retain_graph=True)
    conv = model.encoder.parts["image"].convs[0].weight.grad
    assert (conv is not None and bool(conv.abs().sum() > 0)) != detach
    weight = model.dynamics.prior_net.hidden[0].weight

    def measure():
        torch.manual_seed(5)
        return model.objectives["curvature"](ctx)[0]["curvature"].sum()

    (grad,) = torch.autograd.grad(measure(), weight)
    pair = []
    with torch.no_grad():
        for move in (1e-2, -2e-2):
            weight[2, 1] += move
            pair.append(measure().item())
    assert grad[2, 1].item() == pytest.approx((pair[0] - pair[1]) / 2e-2, rel=0.05, abs=1e-4)


def test_discrete_actions_are_not_moved(monkeypatch):
    space = ActionSpace(5, (2, 3))
    batch = random_batch()
    batch["prev_action"] = space.random(B * T, torch.Generator().manual_seed(1)).view(B, T, -1)
    seen = []
    usual = Dynamics.apply_linearization
    monkeypatch.setattr(
        Dynamics, "apply_linearization", lambda self, *a: seen.append(a[3]) or usual(self, *a)
    )
    evaluate("curvature", batch=batch, space=space)
    assert len(seen) == 1 and not seen[0].any()


def find_log_prob(latent, stoch, dist):
    """log p(stoch) in one distribution, in NumPy."""
    z, d = to_numpy(stoch), {k: to_numpy(v) for k, v in dist.items()}
    if latent == "categorical":
        return (z * d["logits"]).sum()
    std = d["std"] if latent == "gaussian" else np.ones_like(z)
    square = ((z - d["mean"]) / std) ** 2
    return (-0.5 * square - np.log(std) - 0.5 * np.log(2 * np.pi)).sum()


@pytest.mark.parametrize("negatives", ["all", "others", "aligned"])
@pytest.mark.parametrize(
    ("dynamics", "latent"),
    [
        ("rssm", "gaussian"),
        ("rssm", "categorical"),
        ("rssm", "deterministic"),
        ("transformer", "gaussian"),
        ("locally_linear", "gaussian"),
    ],
)
def test_the_past_that_led_here_is_told_from_other_pasts(dynamics, latent, negatives):
    torch.manual_seed(2)
    words = f"model.dynamics={dynamics}", f"model.latent={latent}"
    settings = f"transition_contrastive.negatives={negatives}", "loss.rep=0", "loss.dyn=0"
    _, ctx, (losses, metrics) = evaluate(
        "transition_contrastive", *words, *settings, "transition_contrastive.consistency=0.5"
    )
    first = ctx.batch["is_first"].clone()
    first[:, 0] = True
    places = [(b, t) for b in range(B) for t in range(T) if not first[b, t]]
    keys = ctx.parts.dynamics.latent.dist_keys
    hits = []
    for b in range(B):
        for t in range(T):
            want = {"transition_contrastive": 0.0, "transition_consistency": 0.0}
            if (b, t) in places:
                logs = {
                    (i, s): find_log_prob(
                        latent, ctx.post["stoch"][b, t], {k: ctx.prior[k][i, s] for k in keys}
                    )
                    for i, s in places
                    if (i, s) == (b, t)
                    or {"all": True, "others": i != b, "aligned": i != b and s == t}[negatives]
                }
                own, every = logs[b, t], np.array(list(logs.values()))
                total = every.max() + np.log(np.exp(every - every.max()).sum())
                want = {
                    "transition_contrastive": total - own,
                    "transition_consistency": -0.5 * own,
                }
                hits.append(own == every.max())
            for key, value in want.items():
                assert losses[key][b, t].item() == pytest.approx(value, rel=1e-3, abs=2e-3)
    accuracy = metrics["transition_contrastive/accuracy"].item()
    assert accuracy == pytest.approx(np.mean(hits), abs=1e-6)


@pytest.mark.parametrize("latent", ["gaussian", "categorical", "deterministic"])
def test_a_table_of_log_probabilities_is_that_of_each_pair(latent):
    lat = build.make_latent(loading.parse([f"model.latent={latent}", "model.stoch=4"]).model)
    g = torch.Generator().manual_seed(0)
    params = torch.randn(3, lat.num_params, generator=g) + 30 * (latent != "categorical")
    others = torch.randn(5, lat.num_params, generator=g) + 30 * (latent != "categorical")
    stoch, dist = lat.sample(params, g), lat.dist(others)
    table = lat.tabulate_log_probs(stoch, dist)
    assert table.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            want = find_log_prob(latent, stoch[i], {k: v[j] for k, v in dist.items()})
            assert table[i, j].item() == pytest.approx(want, rel=1e-3, abs=1e-3)


def test_without_consistency_its_loss_is_gone():
    words = "loss.objective={transition_contrastive: 1.0}", "transition_contrastive.consistency=0"
    model = make(*words)[1]
    losses, *_ = model.losses(random_batch())
    assert "transition_consistency" not in losses and losses.keys() == model.scales.keys()


def learn(objective, *words, updates=150):
    """A learner of the block world with locally linear dynamics, and its last metrics."""
    from blocks import BOX, taught

    small = "model.stoch=4", "model.min_std=0.1", "locally_linear.units=32"
    kind = "model.dynamics=locally_linear", *small, "loss.dyn=0", "loss.rep=0"
    return taught(objective, updates, *kind, *words, space=BOX)


def test_the_transition_alone_teaches_where_the_block_is():
    """PC3: no decoder and no KL; what nobody can foresee is left out."""
    from blocks import BOX, known

    learner, metrics = learn("{transition_contrastive: 1.0, curvature: 7.0}", updates=600)
    block, other = known(learner.model, BOX)
    assert block > 0.7 and other < 0.2, (block, other)
    assert metrics["transition_contrastive/accuracy"] > 0.1  # of 128 pasts


def test_curvature_makes_the_transition_linear():
    """A is then the derivative of the whole step: what is left out by holding A, B and o."""
    from blocks import BOX, batch_of

    missed = {}
    for weight in (0.0, 300.0):
        learner, _ = learn(f"{{reconstruction: 1.0, curvature: {weight}}}", "loss.dyn=1")
        dynamics = learner.model.dynamics
        batch = batch_of(10**6, BOX, batch=5)[0]
        z = dynamics.features(learner.model.observe(batch)[1]).detach().flatten(0, 1)
        action = batch["prev_action"].flatten(0, 1)
        held = dynamics.linearize(z, action)[0]
        moves = [
            torch.autograd.functional.jacobian(dynamics.predict_features, pair)[0]
            for pair in zip(z, action, strict=True)
        ]
        size = (torch.stack(moves) - torch.eye(4)).square().mean()
        missed[weight] = ((held - torch.stack(moves)).square().mean() / size).item()
    assert missed[300.0] < 0.3 * missed[0.0], missed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["loss.objective={curvature: 1.0}", "model.dynamics=transformer"],
            "loss.objective: curvature linearises the transition, which model.dynamics transforme",
        ),
        (
            [
                "loss.objective={transition_contrastive: 1.0}",
                "ensemble.size=3",
                "ensemble.of=dynamics",
            ],
            "transition_contrastive: an ensemble of transitions has several predictions",
        ),
        (
            ["loss.objective={transition_contrastive: 1.0}", "model.dynamics=linear_gaussian"],
            "transition_contrastive: the latents of model.dynamics linear_gaussian are inferred",
        ),
    ],
)
def test_what_has_no_such_loss_is_refused_in_one_line(words, line):
    with pytest.raises(loading.ConfigError, match=line):
        loading.parse(["debug", *words])


@pytest.mark.parametrize(
    ("preset", "objective", "kl"),
    [
        ("e2c", {"reconstruction": 1.0}, 0.25),
        ("pcc", {"reconstruction": 1.0, "curvature": 8.0}, 9.0),
        ("pc3", {"transition_contrastive": 1.0, "curvature": 7.0}, 0.0),
    ],
)
def test_a_preset_has_the_published_weights_and_learns_from_two_steps(
    preset, objective, kl, tmp_path
):
    import forked
    from runs import seed_dir

    c = loading.parse([preset])
    assert c.loss.objective == objective and c.loss.dyn == c.loss.rep == kl
    assert c.loss.reward_free and not c.loss.cont
    short = ("--run.frames", "60", "--train.prefill", "60", "--train.pretrain", "3")
    forked.run("train", preset, "--run.root", tmp_path, *short, "--log.every", "1")
    run = seed_dir(tmp_path, "planar", preset)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    lines = [line for line in lines if "updates" in line]
    assert lines[-1]["updates"] == 3 and lines[-1]["replay/episodes"] == 30
    assert {f"train/loss/{name}" for name in objective} - {"train/loss/reconstruction"} <= lines[
        -1
    ].keys()


def test_an_ensembles_features_are_the_mean_over_its_members():
    members = "ensemble.size=3", "ensemble.of=dynamics"
    _, ctx, (losses, _) = evaluate("curvature", *members)
    dynamics, feat, action = ctx.parts.dynamics, ctx.feat[:, 2], ctx.batch["prev_action"][:, 3]
    mean = dynamics.predict_members(feat, action).mean(0)
    found = dynamics.predict_features(feat, action)
    torch.testing.assert_close(found[..., -mean.shape[-1] :], mean)
    assert losses["curvature"].isfinite().all()
