"""Every objective keeps one contract: shapes, masks, who learns from it, who does not."""

import itertools
import json
import math
from typing import get_args

import pytest
import torch

from blocks import batch_of, learner_of
from runs import fingerprint, seed_dir, train
from test_model import B, T, make, random_batch
from worldmodel import registry
from worldmodel.config import loading, ranges, schema
from worldmodel.model.objectives import Context, DistanceObjective, bottleneck
from worldmodel.model.objectives.pairs import mask_candidates
from worldmodel.model.representation_metrics import measure_spread
from worldmodel.spaces import ActionSpace
from worldmodel.training.learner import Learner

NAMES = list(registry.OBJECTIVES)
QUICK = [
    "prototypes.count=12",
    "prototypes.size=6",
    "contrastive.size=7",
    "prototypes.freeze=0",
    "loss.probe=false",
]
GROUPS = ActionSpace(5, (2, 3))

# Whose gradients come from an objective's own losses: the encoder's, the prior's (that is, the
# transition's imagined steps).
TEACHES = {
    "reconstruction": (True, False),
    "contrastive": (True, True),
    "forward_contrastive": (True, True),
    "inverse": (True, True),
    "barlow": (True, False),
    "prototypes": (True, False),
    "bootstrap": (True, True),
    "bottleneck": (True, False),
    "reward_only": (True, True),
    "decorrelation": (True, False),
    "straightening": (True, False),
    "curvature": (False, True),
    "transition_contrastive": (True, True),
}
# Losses that only exist between two steps of an episode.
PAIRED = {
    "contrastive",
    "forward_contrastive",
    "inverse",
    "bootstrap",
    "imagined_reward",
    "imagined_cont",
    "curvature",
    "transition_contrastive",
    "transition_consistency",
}


def model_of(name, *overrides, **options):
    ahead = [
        "contrastive.distances=[1, 2]",
        "bootstrap.distances=[1, 2]",
        "inverse.distances=[1, 2]",
    ]
    return make(f"loss.objective={{{name}: 1.0}}", *QUICK, *ahead, *overrides, **options)


def batch_for(space=None, **options):
    batch = random_batch(**options)
    if space is not None:
        batch["prev_action"] = space.random(B * T, torch.Generator().manual_seed(1)).view(B, T, -1)
    return batch


def context(model, batch):
    embed, post, prior = model.observe(batch)
    return model._make_context(batch, embed, post, prior, model.dynamics.features(post))


def own_losses(model, batch):
    return next(iter(model.objectives.values()))(context(model, batch))[0]


@pytest.mark.parametrize("latent", registry.LATENTS)
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_one_number_per_step_for_every_latent_and_kind_of_action(name, latent):
    for space in (None, GROUPS):
        _, model = model_of(name, f"model.latent={latent}", space=space)
        losses, *_ = model.losses(batch_for(space))
        assert (
            losses.keys() == model.scales.keys()
            and set(model.objectives[name].loss_names) <= losses.keys()
        )
        assert all(v.shape == (B, T) and v.dtype == torch.float32 for v in losses.values())
        assert all(torch.isfinite(v).all() for v in losses.values())


@pytest.mark.parametrize("name", NAMES)
def test_bf16_stays_close_to_fp32(name):
    _, model = model_of(name, "model.latent=deterministic")
    exact = own_losses(model, batch_for())
    with torch.autocast("cpu", torch.bfloat16):
        rough = own_losses(model, batch_for())
    for key, want in exact.items():
        assert rough[key].dtype == torch.float32
        torch.testing.assert_close(rough[key].mean(), want.mean(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "reconstruction"])
def test_a_vector_is_as_good_as_a_picture(name):
    _, model = model_of(name, image=None, vector=5)
    assert model.probe is None and not model.can_draw
    losses, *_ = model.losses(batch_for(image=False, vector=True))
    assert all(torch.isfinite(v).all() for v in losses.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_pair_and_no_window_crosses_an_episodes_start(name):
    """With a start at every step nothing is left to say; with one in the middle, that step alone
    has lost its pairs.
    """
    _, model = model_of(name)
    batch = batch_for()
    everywhere = own_losses(model, {**batch, "is_first": torch.ones(B, T, dtype=torch.bool)})
    found = own_losses(model, batch)
    for key in PAIRED & found.keys():
        assert not everywhere[key].any()
        # Whatever the distances, nothing reaches a step that begins an episode, and something
        # every other.
        assert torch.equal(found[key] == 0, batch["is_first"]), key


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_whom_they_should(name):
    _, model = model_of(name)
    torch.stack([v.mean() for v in own_losses(model, batch_for()).values()]).sum().backward()
    found = (taught(model.encoder), taught(model.dynamics.prior_net))
    assert found == TEACHES[name] if name in TEACHES else any(found)
    if model.slow is not None:
        assert not taught(model.slow)
    unused = [
        n for n, p in model.objectives.named_parameters() if p.requires_grad and not taught(p)
    ]
    assert not unused


def taught(module):
    found = [module] if isinstance(module, torch.Tensor) else list(module.parameters())
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in found)


AIMING = [("contrastive", t) for t in ("grad", "stop", "ema")] + [
    ("forward_contrastive", t) for t in ("grad", "stop", "ema")
]
AIMING += [("barlow", t) for t in ("grad", "stop", "ema")]


@pytest.mark.parametrize(("name", "target"), AIMING)
def test_a_target_learns_only_where_it_is_told_to(name, target):
    _, model = model_of(name, f"{name}.target={target}")
    ctx = context(model, batch_for())
    assert (ctx.slow is not None) == (target == "ema") == (model.slow is not None)
    embed = ctx.embed.detach().requires_grad_()
    apart = Context(
        ctx.batch,
        embed,
        *({k: v.detach() for k, v in s.items()} for s in (ctx.post, ctx.prior)),
        ctx.feat.detach(),
        ctx.mean_images,
        ctx.parts,
        ctx.slow,
    )
    losses, _ = model.objectives[name](apart)
    torch.stack([v.sum() for v in losses.values()]).sum().backward()
    assert (embed.grad is not None and bool(embed.grad.abs().sum() > 0)) == (target == "grad")


@pytest.mark.parametrize("target", ["grad", "stop"])
def test_the_inverse_models_forward_part_aims_as_it_is_told(target):
    _, model = model_of("inverse", f"inverse.target={target}")
    ctx = context(model, batch_for())
    objective, embed = model.objectives["inverse"], ctx.embed.detach().requires_grad_()
    objective(
        Context(ctx.batch, embed, ctx.post, ctx.prior, ctx.feat, ctx.mean_images, ctx.parts)
    )[0]["inverse_forward"].sum().backward()
    assert (embed.grad is not None and bool(embed.grad.abs().sum() > 0)) == (target == "grad")


def test_bootstrap_aims_at_the_slow_encoder_alone():
    _, model = model_of("bootstrap")
    ctx = context(model, batch_for())
    embed = ctx.embed.detach().requires_grad_()
    seen = Context(
        ctx.batch, embed, ctx.post, ctx.prior, ctx.feat, ctx.mean_images, ctx.parts, ctx.slow
    )
    (loss,) = model.objectives["bootstrap"](seen)[0].values()
    loss.sum().backward()
    assert embed.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_an_update_logs_whether_it_collapses(name):
    c, model = model_of(name)
    metrics = Learner(model, c.optim, torch.device("cpu"), "fp32").update(batch_for())
    for key in ("feat/std", "feat/rank", "embed/std", "embed/rank"):
        assert torch.isfinite(metrics[key]) and metrics[key] > 0


def test_collapse_by_hand():
    g = torch.Generator().manual_seed(0)
    broad = measure_spread("x", torch.randn(8, 60, 10, generator=g))
    assert broad["x/rank"] > 9 and broad["x/std"].item() == pytest.approx(1, abs=0.1)
    line = measure_spread("x", torch.randn(8, 60, 1, generator=g) * torch.randn(10, generator=g))
    assert line["x/rank"].item() == pytest.approx(1, abs=1e-3)
    still = measure_spread("x", torch.ones(8, 60, 10))
    assert still["x/rank"] == 0 and still["x/std"] == 0
    wide = torch.randn(4, 5, 300, generator=g)  # fewer steps than directions
    covariance = torch.cov(wide.flatten(0, 1).T, correction=0)
    want = covariance.trace() ** 2 / covariance.square().sum()
    torch.testing.assert_close(measure_spread("x", wide)["x/rank"], want, rtol=1e-3, atol=1e-3)


def test_a_collapse_shows():
    """An encoder that has gone flat: the numbers say so."""
    learner = learner_of("{contrastive: 1.0}", "optim.lr=1e-2")
    flat = learner.model.encoder.parts.image.convs[-1]
    before = learner.update(batch_of(0)[0])
    torch.nn.init.zeros_(flat.weight)
    learner.updates = learner.model.measure_every
    after = learner.update(batch_of(1)[0])
    assert before["embed/rank"] > 2 and before["embed/std"] > 1e-3
    assert after["embed/rank"] < 1e-3 and after["embed/std"] < 1e-6


def test_a_mix_weighs_each_of_its_parts():
    weights = {name: 0.5 + i for i, name in enumerate(NAMES)}
    _, model = make(f"loss.objective={json.dumps(weights)}", *QUICK, "model.latent=deterministic")
    batch = batch_for()
    torch.manual_seed(1)
    losses, *_ = model.losses(batch)
    torch.manual_seed(1)
    ctx = context(model, batch)
    for name, weight in weights.items():
        for key, value in model.objectives[name](ctx)[0].items():
            torch.testing.assert_close(losses[key], weight * value)
    total, shown, *_ = model.loss(batch)
    want = sum(model.scales[k] * shown[f"loss/{k}"] for k in model.scales)
    torch.testing.assert_close(total, want)
    assert (
        model.scales["imagined_reward"] == model.scales["reward"]
        and model.scales["contrastive"] == 1
    )


def test_negatives_are_where_they_are_asked_for():
    for kind, (b, t), (i, s) in itertools.product(
        get_args(ranges.Negatives),
        itertools.product(range(3), range(4)),
        itertools.product(range(3), range(4)),
    ):
        want = {"all": True, "others": b != i, "aligned": b != i and t == s}[kind] or (b, t) == (
            i,
            s,
        )
        assert mask_candidates(kind, 3, 4, torch.device("cpu"))[b * 4 + t, i * 4 + s] == want


def test_prototypes_wait_and_stay_on_the_sphere():
    c, model = make(
        "loss.objective={prototypes: 1.0}", *QUICK, "prototypes.freeze=2", "optim.lr=0.1"
    )
    objective = model.objectives["prototypes"]
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    seen = [objective.centres.detach().clone()]
    for i in range(4):
        learner.update(batch_for(seed=i))
        seen.append(objective.centres.detach().clone())
    torch.testing.assert_close(seen[2], seen[0])
    assert not torch.allclose(seen[3], seen[2], atol=1e-3)
    torch.testing.assert_close(seen[4].norm(dim=-1), torch.ones(12))


def test_the_slow_encoder_follows_at_its_rate():
    c, model = make("loss.objective={bootstrap: 1.0}", *QUICK, "ema.rate=0.25")
    slow = [p.clone() for p in model.slow.parameters()]
    Learner(model, c.optim, torch.device("cpu"), "fp32").update(batch_for())
    for before, now, online in zip(
        slow, model.slow.parameters(), model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(now, 0.75 * before + 0.25 * online)
        assert not now.requires_grad
    assert make()[1].slow is None


def test_the_bottlenecks_price_follows_the_kl():
    _, model = make(
        "loss.objective={bottleneck: 1.0}", *QUICK, "bottleneck.rate=0.1", "bottleneck.beta=0.5"
    )
    objective = model.objectives["bottleneck"]
    assert "rep" not in model.scales and {"dyn", "bottleneck"} <= model.scales.keys()
    ctx = context(model, batch_for())
    losses, metrics = objective(ctx)
    kl = model.dynamics.kl(ctx.post, ctx.prior)
    torch.testing.assert_close(losses["bottleneck"], 0.5 * kl)
    objective.after_update(lambda x: x)
    excess = (kl.mean() / objective.settings.nats - 1).clamp(-1, 1).item()
    assert objective.log_beta.item() == pytest.approx(math.log(0.5) + 0.1 * excess)
    assert 0 < abs(excess) < 1
    for kl, moved in ((6.0, 0.1), (30.0, 0.1), (3.0, 0.0), (1.5, -0.05)):
        before = objective.log_beta.item()
        objective._kl = torch.tensor(kl)
        objective.after_update(lambda x: x)
        assert objective.log_beta.item() - before == pytest.approx(moved, abs=1e-6)
    objective._kl = torch.tensor(0.0)
    for _ in range(200):
        objective.after_update(lambda x: x)
    assert objective.log_beta.exp().item() == pytest.approx(bottleneck.LEAST)


def test_a_mix_draws_its_dreams_once(monkeypatch):
    distances = ["inverse.distances=[1, 2]", "contrastive.distances=[0, 3]"]
    _, model = make(
        "loss.objective={contrastive: 1.0, inverse: 1.0, reward_only: 1.0}", *QUICK, *distances
    )
    steps, real = [], model.dynamics.imagine_step
    monkeypatch.setattr(model.dynamics, "imagine_step", lambda *a: steps.append(1) or real(*a))
    model.losses(batch_for())
    assert len(steps) == 3


def test_every_objective_in_a_mix_resumes_exactly(tmp_path):
    """One by one, and beside a planner, they do in tests/faults/test_exact_resume.py."""
    weights = json.dumps({name: 0.1 for name in NAMES})
    extra = (
        "--loss.objective",
        weights,
        "--augment.shift",
        "2",
        "--contrastive.target",
        "ema",
        "--train.updates_per_step",
        "0.3",
        "--behavior.name",
        "actor_critic",
        "--prototypes.count",
        "20",
        "--imag.horizon",
        "3",
        "--imag.starts",
        "8",
        "--log.eval",
        "0",
        "--run.frames",
        "70",
    )
    train(tmp_path / "a", *extra)
    train(tmp_path / "b", *extra, "--run.frames", "47")
    train(tmp_path / "b", *extra)
    whole = fingerprint(seed_dir(tmp_path / "a"))
    assert whole == fingerprint(seed_dir(tmp_path / "b"))
    lines = [
        json.loads(x)
        for x in (seed_dir(tmp_path / "a") / "metrics.jsonl").read_text().splitlines()
    ]
    shown = {k for line in lines for k, v in line.items() if v is not None}
    assert {
        "train/feat/rank",
        "train/loss/contrastive",
        "train/bottleneck/beta",
        "train/loss/image",
    } <= shown


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--loss.objective", "{contrastve: 1}"], "did you mean contrastive?"),
        (["--loss.objective.barlo", "1"], "did you mean barlow?"),
        (["--contrastive.temprature", "1"], "did you mean contrastive.temperature?"),
        (["--contrastive.form", "cosin"], "did you mean cosine?"),
        (["--inverse.distances", "[0]"], "inverse.distances[0]: 0 is out of range"),
        (
            ["--loss.objective", "{inverse: 1}", "--inverse.distances", "[1, 32]"],
            "must be shorter than replay.length 32",
        ),
        (
            [
                "--loss.objective",
                "{contrastive: 1}",
                "--contrastive.negatives",
                "aligned",
                "--replay.batch",
                "1",
            ],
            "take all",
        ),
        (
            [
                "--loss.objective",
                "{inverse: 1}",
                "--inverse.forward",
                "0",
                "--behavior.name",
                "mpc",
                "--planner.score",
                "goal_distance",
                "--goal.image",
                "x.png",
                "--goal.distance",
                "learnt",
            ],
            "inverse.forward is 0",
        ),
        (["--augment.shift", "40"], "are more than a picture"),
        (["--augment.shift", "4", "--env.obs", "state"], "need pictures"),
    ],
)
def test_what_cannot_be_asked_of_objectives(args, wanted):
    with pytest.raises(loading.ConfigError) as caught:
        loading.parse(args)
    assert any(wanted in problem for problem in caught.value.problems), caught.value.problems


def test_the_schema_knows_who_can_compare():
    classes = {name: registry.import_class(registry.OBJECTIVES, name) for name in NAMES}
    comparing = {name for name, kind in classes.items() if issubclass(kind, DistanceObjective)}
    assert comparing == set(schema.DISTANCE_OBJECTIVES) and TEACHES.keys() <= classes.keys()
