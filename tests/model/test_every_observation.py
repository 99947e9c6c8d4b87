"""Every set of named pictures and vectors, of sizes that all differ, makes a model that keeps the
contract.
"""

import pytest
import torch

from test_model import A, B, T, random_batch
from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.mean_image import to_pixels
from worldmodel.rollout.montage import join_pictures
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

SPECS = {
    "image": {"image": (16, 24, 3)},
    "image and vector": {"image": (16, 24, 3), "vector": 5},
    "grey": {"image": (16, 24, 1)},
    "vector": {"vector": 5},
    "two cameras": {"camera0": (16, 24, 3), "camera1": (32, 8, 3)},
    "1 and 4 channels, two vectors": {
        "wrist": (16, 24, 4),
        "front": (32, 40, 1),
        "joints": 5,
        "goal": 9,
    },
    "two channels, names of modules' parts": {"size": (8, 48, 2), "decoders": 4, "image": 6},
    "two vectors": {"joints": 5, "goal": 9},
}
TINY = [
    "debug",
    "model.cnn=[4, 6]",
    "replay.length=7",
    "env.size=[16, 24]",
    "optim.lr=1e-2",
    "loss.overshooting=1",
    "run.precision=fp32",
]


@pytest.fixture(params=SPECS, ids=str)
def observation(request):
    return ObservationSpace(SPECS[request.param])


def make_model(observation, *overrides):
    torch.manual_seed(0)
    c = loading.parse([*TINY, *overrides])
    return c, build.make_model(c, observation, ActionSpace(A))


def make_batch(observation, seed=0):
    g = torch.Generator().manual_seed(seed)
    batch = random_batch(image=False, seed=seed)
    for name, shape in observation.pictures.items():
        batch[name] = torch.randint(0, 256, (B, T, *shape), generator=g, dtype=torch.uint8)
    for name, size in observation.vectors.items():
        batch[name] = torch.randn(B, T, size, generator=g)
    return batch


def test_every_observation_has_an_encoder_a_loss_and_a_gradient(observation):
    _, model = make_model(observation)
    losses, *_ = model.losses(make_batch(observation))
    assert losses.keys() == model.scales.keys()
    assert all(v.shape == (B, T) and torch.isfinite(v).all() for v in losses.values())
    kinds = {"image": observation.pictures, "vector": observation.vectors}
    for kind, names in kinds.items():
        for name in names:
            assert (kind if name == kind else f"{kind}/{name}") in losses
    torch.stack([v.mean() for v in losses.values()]).sum().backward()
    for name in observation:
        assert any(p.grad.abs().sum() > 0 for p in model.encoder.parts[name].parameters())
    assert model.encode(make_batch(observation)).shape == (B, T, model.encoder.size)


def test_pictures_come_back_by_name_in_their_own_shapes(observation):
    _, model = make_model(observation)
    feat = torch.randn(2, 4, model.dynamics.feature_size)
    assert model.can_draw == bool(observation.pictures)
    if not observation.pictures:
        with pytest.raises(ValueError, match="cannot draw"):
            model.decode(feat)
        return
    drawn = model.decode(feat)
    assert {k: tuple(v.shape) for k, v in drawn.items()} == {
        k: (2, 4, *shape) for k, shape in observation.pictures.items()
    }
    joined = to_pixels(join_pictures(drawn))
    assert joined.shape[:3] == (2, 4, max(s[0] for s in observation.pictures.values()))
    assert joined.shape[-1] == 3


def test_what_one_observation_shows_changes_what_is_believed(observation):
    _, model = make_model(observation)
    batch = make_batch(observation)
    embed = model.encode(batch)
    for name in observation:
        other = {**batch, name: make_batch(observation, seed=1)[name]}
        assert not torch.equal(model.encode(other), embed)


def test_a_few_updates_fit_one_batch(observation):
    c, model = make_model(observation, "model.backdrop=3")
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    batch = make_batch(observation)
    for name in observation.pictures:  # flat ones, which can be learnt
        batch[name][:] = batch[name][:, :, :1, :1]
    history = [learner.update(dict(batch)) for _ in range(30)]
    for name in model.objectives["reconstruction"].loss_names:
        assert float(history[-1][f"loss/{name}"]) < float(history[0][f"loss/{name}"])
    assert int(learner.skips[0]) == 0


def test_pictures_are_shifted_each_for_itself():
    observation = ObservationSpace(SPECS["two cameras"])
    _, model = make_model(observation, "augment.shift=3")
    batch = model.augment(make_batch(observation))
    shifts = [batch[f"shift/{name}"] for name in observation.pictures]
    assert all(s.shape == (B, T, 2) for s in shifts) and not torch.equal(*shifts)


def test_a_share_of_the_steps_stands_for_all_of_them_in_every_picture():
    observation = ObservationSpace(SPECS["two cameras"])
    _, model = make_model(observation, "loss.pictures=0.3")
    losses, *_ = model.losses(make_batch(observation))
    drawn = [losses[f"image/{name}"] > 0 for name in observation.pictures]
    assert torch.equal(*drawn) and 0 < drawn[0].sum() < B * T


def test_order_and_form_of_a_spec_change_nothing():
    shapes = {"vector": 5, "b": [8, 12, 1], "a": (16, 24, 3)}
    observation = ObservationSpace(shapes)
    assert list(observation) == ["a", "b", "vector"]
    assert observation == ObservationSpace(dict(reversed(shapes.items())))
    assert ObservationSpace(observation.describe()) == observation
    assert observation.describe() == {"a": [16, 24, 3], "b": [8, 12, 1], "vector": 5}


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ({"reward": 3}, "cannot be called 'reward'"),
        ({"is_first": (8, 8, 3)}, "cannot be called"),
        ({"before_deter": 3}, "cannot be called"),
        ({"state_dict": 3}, "cannot be called"),
        ({"hand.camera": (8, 8, 3)}, "cannot be called"),
        ({"x": (8, 8, 5)}, "1 to 4 channels"),
        ({"x": (8, 8)}, "pictures are"),
        ({"x": (0, 8, 3)}, "pictures are"),
    ],
)
def test_what_cannot_be_seen_is_one_line(shapes, wanted):
    with pytest.raises(ValueError, match=wanted) as caught:
        ObservationSpace(shapes)
    assert "\n" not in str(caught.value)


def test_the_probe_draws_every_picture():
    observation = ObservationSpace(SPECS["1 and 4 channels, two vectors"])
    _, model = make_model(observation, "loss.objective={contrastive: 1.0}")
    assert model.probe is not None
    assert model.decode(torch.randn(1, 2, model.dynamics.feature_size)).keys() == {
        "front",
        "wrist",
    }
    batch = make_batch(observation)
    torch.manual_seed(1)
    _, metrics, post, feat = model.losses(batch)
    ctx = model._make_context(batch, model.encode(batch), post, post, feat)
    shown, _ = model.probe(ctx)
    assert len(shown) == 2  # the loss of the probe is the sum of its pictures' means
    wanted = sum(loss.mean() for loss in shown.values())
    torch.testing.assert_close(metrics["loss/probe"], wanted)


def test_the_kernels_take_pictures_of_any_number_of_channels(observation):
    """Under autocast on a CPU, C kernels replace torch in encoder, decoder and image loss."""
    _, model = make_model(observation)
    batch = make_batch(observation)
    found = {}
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses, *_ = model.losses(batch)
        found[enabled] = {
            name: losses[name].float()
            for name in losses
            if "/" in name or name in ("image", "vector")
        }
        model.zero_grad()
        torch.stack([v.mean() for v in losses.values()]).sum().backward()
        for name in observation.pictures:
            grads = [p.grad for p in model.encoder.parts[name].parameters()]
            assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads)
    for name, exact in found[False].items():
        torch.testing.assert_close(found[True][name], exact, rtol=0.05, atol=0.05)
