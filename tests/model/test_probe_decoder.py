"""Looking at a model without touching it: the probe decoder, and linear read-outs of the true
state.
"""

import hashlib
import json

import numpy as np
import pytest
import torch

import worldmodel
from blocks import batch_of, draw, learner_of, taught
from runs import evaluate, seed_dir, train
from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.evaluation.quality.state_probe import (
    LinearProbe,
    measure_held_out_r2,
    state_r2,
)
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

SPACE = ActionSpace(3, (3,), True)


def trained(probe, *overrides, updates=5, spoil=None):
    """Hashes of everything but the probe after some updates, and the learner; every objective that
    draws nothing.
    """
    weights = {name: 0.1 for name in registry.OBJECTIVES if name != "reconstruction"}
    c = loading.parse(
        [
            "debug",
            f"loss.objective={json.dumps(weights)}",
            "loss.pictures=0.5",
            "prototypes.freeze=2",
            "prototypes.count=20",
            f"loss.probe={probe}",
            "behavior.name=actor_critic",
            "imag.horizon=3",
            *overrides,
        ]
    )
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    policy = build.make_policy(c, model, SPACE)
    learner = Learner(model, c.optim, torch.device("cpu"), c.run.precision, policy)
    for i in range(updates):
        if spoil == i:
            model.probe.decoder.decoders.image.project.weight.data.fill_(float("inf"))
        metrics = learner.update(batch_of(i, SPACE)[0])
    weights = {
        **{k: v for k, v in model.state_dict().items() if not k.startswith("probe.")},
        **policy.state_dict(),
    }
    moments = {
        k: v
        for k, v in learner.optimizers.state_dict().items()
        if int(k.split("/")[0]) < len(learner.optimizers.parameters) - apart(model)
    }
    shown = {k: v for k, v in metrics.items() if "probe" not in k}
    everything = {**weights, **moments, **shown, "random": torch.get_rng_state()}
    return (
        {
            k: hashlib.sha256(v.detach().numpy().tobytes()).hexdigest()
            for k, v in everything.items()
        },
        learner,
        metrics,
    )


def apart(model):
    return len(list(model.probe.parameters())) if model.probe is not None else 0


CLIPPED = ["optim.clip=0.01"]
LAPROP = ["optim.name=laprop", "optim.clip_by=adaptive", "optim.clip=0.3"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("extra", [CLIPPED, LAPROP], ids=["adam", "laprop"])
def test_everything_else_is_bit_equal_with_and_without_a_probe(extra, precision):
    """Weights, moments, gradient norms under a clip that bites, metrics and the state of the
    random numbers.
    """
    without, _, _ = trained("false", *extra, f"run.precision={precision}")
    prints, learner, metrics = trained("true", *extra, f"run.precision={precision}")
    assert prints == without
    assert (
        metrics["loss/probe"] > 0
        and metrics["grad_norm/probe"] > 0
        and "loss/probe" not in learner.model.scales
    )


def test_a_probe_gone_mad_stops_nobody_but_itself():
    without, _, _ = trained("false")
    prints, learner, metrics = trained("true", spoil=2)
    assert prints == without and metrics["skipped"] == 0
    assert not torch.isfinite(metrics["loss/probe"])


def test_no_gradient_of_the_probes_reaches_the_model():
    learner = learner_of("{contrastive: 1.0}", "loss.probe=true")
    _, metrics = learner.loss(batch_of(0)[0])
    metrics["loss/probe"].backward()
    touched = {
        name.split(".")[0] for name, p in learner.model.named_parameters() if p.grad is not None
    }
    assert touched == {"probe"}


def test_a_probe_is_made_only_where_nothing_draws():
    for objective, probe, wanted in (
        ("{reconstruction: 1.0}", "true", False),
        ("{reconstruction: 0.1, barlow: 1.0}", "true", False),
        ("{barlow: 1.0}", "true", True),
        ("{barlow: 1.0}", "false", False),
    ):
        model = learner_of(objective, f"loss.probe={probe}").model
        assert (model.probe is not None) == wanted
        assert model.can_draw == (wanted or "reconstruction" in objective)
    with pytest.raises(ValueError, match="loss.probe"):
        model.decode(torch.zeros(1, 1, model.dynamics.feature_size))


def test_the_probe_draws_what_the_latent_knows():
    """A contrastive latent has no decoder; the probe finds the block in it."""
    learner, _ = taught("{forward_contrastive: 10.0}", 150, "loss.probe=true")
    batch, state = batch_of(999, cut=False)
    with torch.no_grad():
        model = learner.model
        found = model.decode(model.dynamics.features(model.observe(batch)[1]))["image"]
    where = found[:, 3:, 6:12, :, 0].mean(2).argmax(-1)  # the reddest column
    there = (state[:, 3:, 0] * 4).round()
    assert ((where >= there) & (where < there + 4)).float().mean() > 0.7
    assert found.shape == draw(state[..., 0], state[..., 1]).shape


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("probed")
    train(root, "--loss.objective", "{contrastive: 1.0}", "--run.frames", "60")
    return seed_dir(root)


def test_a_run_without_a_decoder_is_looked_at_all_the_same(run_dir):
    assert (run_dir / "videos" / "imagined.gif").stat().st_size > 0
    out, _ = evaluate(run_dir, "imagine", "--context", "4", "--length", "9")
    assert "picture MSE" in out
    run = worldmodel.load(run_dir)
    _, carry = run.act(np.full((32, 32, 3), 7, np.uint8))
    assert run.imagine(carry, np.zeros((2, 1))).shape == (2, 32, 32, 3)


def test_eval_probe_reads_the_true_state_of_a_run_that_sees_only_pixels(run_dir):
    out, _ = evaluate(run_dir, "probe", "--episodes", "6")
    result = json.loads((run_dir / "eval" / "probe.json").read_text())
    assert len(result["r2"]) == 3 and "R^2" in out  # the counter's step, tag and action
    assert "at least 3" in evaluate(run_dir, "probe", "--episodes", "2", expect=2)[1]


def test_without_a_probe_imagining_says_what_is_missing(tmp_path):
    train(
        tmp_path,
        "--loss.objective",
        "{barlow: 0.05}",
        "--loss.probe",
        "false",
        "--run.frames",
        "40",
    )
    assert "loss.probe" in evaluate(seed_dir(tmp_path), "imagine", expect=2)[1]


def test_r2_by_hand():
    rng = np.random.default_rng(0)
    feat = rng.normal(size=(400, 6)) * [1, 5, 0.1, 1, 1, 1] + 3
    noise = rng.normal(size=400)
    half = feat[:, 3] - 3 + rng.normal(size=400)  # as much noise as signal
    state = np.stack([2 * feat[:, 0] - feat[:, 2] + 7, noise, np.ones(400), half], 1)
    r2 = state_r2(feat[:300], state[:300], feat[300:], state[300:], ridge=1e-6)
    assert (
        r2[0] == pytest.approx(1, abs=1e-4)
        and abs(r2[1]) < 0.15
        and np.isnan(r2[2])
        and abs(r2[3] - 0.5) < 0.2
    )
    episodes = (
        [feat[i : i + 40] for i in range(0, 400, 40)],
        [state[i : i + 40] for i in range(0, 400, 40)],
    )
    assert measure_held_out_r2(*episodes)[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rows", [12, 40])
def test_weights_are_those_of_the_normal_equations_with_more_features_or_more_rows(rows):
    rng = np.random.default_rng(0)
    feat, state = rng.normal(size=(rows, 25)) * 3 + 1, rng.normal(size=(rows, 2))
    held = rng.normal(size=(9, 25)) * 3 + 1
    middle, scale = feat.mean(0), feat.std(0)
    x = (feat - middle) / scale
    for ridge in (1e-3, 2.0):
        probe = LinearProbe.fit(feat, state, ridge)
        weights = np.linalg.solve(
            x.T @ x + ridge * rows * np.eye(25), x.T @ (state - state.mean(0))
        )
        wanted = state.mean(0) + (held - middle) / scale @ weights
        np.testing.assert_allclose(probe.predict(held), wanted, rtol=1e-5, atol=1e-5)


def test_a_read_out_that_only_memorises_is_found_out():
    """As many features as rows fit anything; held-out steps show that nothing is known."""
    rng = np.random.default_rng(0)
    r2 = state_r2(
        rng.normal(size=(60, 60)),
        rng.normal(size=(60, 1)),
        rng.normal(size=(60, 60)),
        rng.normal(size=(60, 1)),
    )
    assert r2[0] < 0


def test_the_penalty_that_is_best_on_episodes_left_out_is_taken():
    """What cannot be known is left at its mean, and what can be is read off all the same."""
    rng = np.random.default_rng(0)
    feats = [rng.normal(size=(20, 50)) for _ in range(9)]
    states = [np.stack([f[:, 0] - f[:, 3], rng.normal(size=20)], 1) for f in feats]
    known, unknown = measure_held_out_r2(feats, states)
    assert known > 0.95 and -0.1 < unknown < 0.3
    weak = state_r2(
        *(np.concatenate(part) for part in (feats[:6], states[:6], feats[6:], states[6:]))
    )
    assert weak[1] < -0.3
