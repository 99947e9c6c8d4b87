"""The spatial encoder: its points are where its maps are large, and they follow what moves."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from runs import evaluate, seed_dir, train
from test_model import VECTOR, A, B, H, T, W, make, random_batch
from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.config.component_settings import states_fact
from worldmodel.errors import UsageError
from worldmodel.evaluation.imagination import feature_points
from worldmodel.model.augment import shift_pictures
from worldmodel.model.spatial_encoder import (
    BlobDecoder,
    PointDecoder,
    Settings,
    SpatialEncoder,
    locate_points,
    penalize_acceleration,
)
from worldmodel.training.learner import Learner

SPATIAL = ("model.encoder=spatial", "spatial.channels=[4]", "spatial.points=6")
DYNAMICS = [
    n for n, place in registry.DYNAMICS.items() if not states_fact(place, "encodes_nothing")
]


def test_a_single_bright_pixel_is_the_point():
    """On a map of 5 x 8 the centre of pixel (row, column) is at ((2 column + 1) / 8 - 1, ...)."""
    maps = torch.zeros(2, 3, 5, 8)
    bright = torch.tensor([[[0, 0], [4, 7], [2, 3]], [[1, 6], [3, 2], [4, 0]]])
    for n in range(2):
        for k in range(3):
            maps[n, k, bright[n, k, 0], bright[n, k, 1]] = 100.0
    found = locate_points(maps, torch.ones(1))
    expected = (2 * bright.flip(-1) + 1) / torch.tensor([8, 5]) - 1
    torch.testing.assert_close(found, expected)


def test_a_point_is_the_mean_place_of_the_softmax():
    maps, temperature = torch.randn(2, 3, 4, 6), torch.tensor([0.7])
    share = (maps / 0.7).exp()
    share = share / share.sum((2, 3), keepdim=True)
    xs, ys = (2 * torch.arange(6) + 1) / 6 - 1, (2 * torch.arange(4) + 1) / 4 - 1
    found = locate_points(maps, temperature)
    torch.testing.assert_close(found[..., 0], torch.einsum("nkij,j->nk", share, xs))
    torch.testing.assert_close(found[..., 1], torch.einsum("nkij,i->nk", share, ys))
    assert locate_points(maps.bfloat16(), temperature).dtype == torch.float32
    flat = locate_points(torch.full((1, 1, 4, 6), 3.0), temperature)
    torch.testing.assert_close(flat, torch.zeros(1, 1, 2), atol=1e-6, rtol=0)


def draw_blobs(places, size=32):
    """Pictures (N,size,size,3) with a blob at each place (column, row)."""
    at = torch.arange(size) + 0.5
    x, y = (p[:, None, None] for p in torch.as_tensor(places, dtype=torch.float32).unbind(1))
    gaps = (at[None, None, :] - x).square() + (at[None, :, None] - y).square()
    return (-gaps / 8).exp().unsqueeze(-1).expand(-1, -1, -1, 3)


def test_points_follow_a_moved_blob():
    """Filters that answer to brightness put every point on the blob, wherever it moves."""
    torch.manual_seed(0)
    encoder = SpatialEncoder(Settings([4, 4], 5), (32, 32, 3))
    with torch.no_grad():
        for conv in encoder.convs:
            conv.weight.abs_()
        encoder.log_temperature.fill_(-3.0)
        places = torch.tensor([[10.0, 9.0], [20.0, 9.0], [10.0, 21.0], [22.0, 19.0]])
        points = encoder(draw_blobs(places)).unflatten(1, (5, 2))
    expected = places / 16 - 1
    assert (points - expected[:, None]).abs().max() < 0.08
    moves, wanted = points - points[:1], expected - expected[:1]
    assert (moves - wanted[:, None]).abs().max() < 0.02, "by as much as the blob"


def test_an_autoencoder_learns_points_from_which_the_place_can_be_read():
    torch.manual_seed(0)
    encoder = SpatialEncoder(Settings([6], 4), (32, 32, 3))
    decoder = PointDecoder(4, (32, 32, 3))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=5e-3)
    start = encoder.log_temperature.item()
    for _ in range(200):
        pictures = draw_blobs(5 + 22 * torch.rand(32, 2))
        points = encoder(pictures).view(1, 32, 4, 2)
        loss = decoder.error(points, pictures[None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert encoder.log_temperature.item() != start, "the temperature learns too"
    places = 5 + 22 * torch.rand(400, 2)
    with torch.no_grad():
        pictures = draw_blobs(places)
        points = encoder(pictures)
        grey = F.avg_pool2d(pictures[..., 0], 4)
        error = decoder.error(points.view(1, 400, 4, 2), pictures[None]).mean()
        assert error < 0.9 * (grey - grey.mean(0)).square().sum((1, 2)).mean()
        features = torch.cat([points, torch.ones(400, 1)], 1)
    weights = torch.linalg.lstsq(features[:200], places[:200]).solution
    errors = (features[200:] @ weights - places[200:]).square().mean(0)
    assert (1 - errors / places.var(0)).min() > 0.95


def test_accelerations_are_penalised_within_episodes_only():
    points = torch.zeros(2, 6, 1, 2)
    points[0, :, 0, 0] = torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6, 0.8])  # steady but for one change
    points[1, :, 0, 1] = torch.tensor([0.0, 0.5, -0.5, 0.1, 0.2, 0.3])
    is_first = torch.zeros(2, 6, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[1, 3] = True
    found = penalize_acceleration([points], is_first)
    expected = torch.zeros(2, 6)
    expected[0, 2] = 0.1**2
    expected[1, 1] = 1.5**2  # rows 2 and 3 reach across the start of an episode
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    twice = penalize_acceleration([points, points], is_first)
    torch.testing.assert_close(twice, 2 * found)


@pytest.mark.parametrize("dynamics", [n for n in DYNAMICS if n != "frame_stack"])
def test_any_dynamics_takes_points_and_the_losses_train_the_encoder(dynamics):
    more = ("loss.smooth=0.5", f"model.dynamics={dynamics}", "model.latent=gaussian")
    c, model = make(*SPATIAL, *more, vector=(VECTOR,))
    batch = random_batch(vector=True)
    embed = model.encode(batch)
    assert embed.shape == (B, T, 2 * 6 + c.model.units)
    points = model.find_points(embed)["image"]
    assert points.shape == (B, T, 6, 2) and points.abs().max() <= 1
    total, metrics, *_ = model.loss(batch)
    losses, *_ = model.losses(batch)
    assert losses["smooth"].shape == (B, T) and model.scales["smooth"] == 0.5
    assert metrics["loss/smooth"] > 0
    total.backward()
    for parameter in model.encoder.parts["image"].parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_a_linear_map_of_the_points_draws_the_small_grey_picture():
    """|g - (W f + b)|^2, where g is the mean of colours and of 4x4 pixels, as the encoder sees it."""
    _, model = make(*SPATIAL, "loss.grey=0.3", "augment.shift=3", vector=(VECTOR,))
    model.mean_images["image"].picture.uniform_(0, 255)
    batch = model.augment(random_batch(vector=True))
    losses, *_ = model.losses(batch)
    points = model.find_points(model.encode(batch))["image"].flatten(2)
    net, mean = model.grey["image"].linear, model.mean_images["image"].picture
    seen = shift_pictures((batch["image"] - mean) / 255, batch["shift/image"])
    assert batch["shift/image"].any()
    grey = seen.reshape(B, T, H // 4, 4, W // 4, 4, 3).mean((3, 5, 6)).flatten(2)
    wanted = (points @ net.weight.T + net.bias - grey).square().sum(-1)
    torch.testing.assert_close(losses["grey"], wanted)
    assert model.scales["grey"] == 0.3


def test_the_small_picture_trains_the_points_and_nothing_behind_them():
    _, model = make(*SPATIAL, "loss.grey=1")
    model.losses(random_batch())[0]["grey"].mean().backward()
    trained = {k for k, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    parts = "encoder.parts.image", "grey.image"
    assert trained == {k for k, _ in model.named_parameters() if k.startswith(parts)}
    assert "encoder.parts.image.log_temperature" in trained


def test_blobs_are_drawn_at_the_points_in_their_colours():
    """|p(x) - sum_k c_k exp(-|x - f_k|^2 / (2 s_k^2))|^2, pixel by pixel."""
    torch.manual_seed(0)
    decoder = BlobDecoder(2, (8, 12, 3))
    decoder.log_width.data = torch.tensor([0.2, 0.5]).log()
    points = torch.tensor([[-0.4, 0.3], [0.6, -0.7]]).view(1, 1, 2, 2)
    picture = torch.rand(1, 1, 8, 12, 3)
    error = 0.0
    for row in range(4):
        for column in range(6):
            place = torch.tensor([(2 * column + 1) / 6 - 1, (2 * row + 1) / 4 - 1])
            gaps = (place - points[0, 0]).square().sum(-1)
            blob = (-gaps / (2 * torch.tensor([0.2, 0.5]).square())).exp()
            pixel = picture[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((0, 1))
            error += (blob @ decoder.colour - pixel).square().sum()
    torch.testing.assert_close(decoder.error(points, picture), error.view(1, 1))


def test_blobs_train_the_points_and_nothing_behind_them():
    _, model = make(*SPATIAL, "loss.blobs=0.5")
    losses = model.losses(random_batch())[0]
    losses["blobs"].mean().backward()
    trained = {k for k, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    parts = "encoder.parts.image", "blobs.image"
    assert trained == {k for k, _ in model.named_parameters() if k.startswith(parts)}
    assert model.scales["blobs"] == 0.5


def test_points_are_those_of_the_pictures_encoder_by_name():
    _, model = make(*SPATIAL, vector=(VECTOR,))
    batch = random_batch(vector=True)
    embed = model.encode(batch)
    pictures = model.mean_images["image"].subtract_from(batch["image"], torch.float32)
    own = model.encoder.parts["image"](pictures.flatten(0, 1)).view(B, T, 6, 2)
    torch.testing.assert_close(model.find_points(embed)["image"], own)
    _, other = make(vector=(VECTOR,))
    assert other.find_points(other.encode(batch)) == {}


def test_a_weight_on_accelerations_makes_them_smaller():
    """The same batch with and without the weight: points jump less from step to step."""
    found = []
    for weight in (0.0, 100.0):
        c, model = make(*SPATIAL, f"loss.smooth={weight}", "optim.lr=3e-3")
        learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
        batch = random_batch()
        for _ in range(25):
            learner.update(batch)
        points = model.find_points(model.encode(batch))["image"]
        found.append(penalize_acceleration([points], batch["is_first"]).mean().item())
    assert found[1] < 0.5 * found[0]


@pytest.mark.parametrize(
    "keys, words",
    [
        (["loss.smooth=1"], "loss.smooth: cnn finds no feature points"),
        (
            ["model.dynamics=pixels", "loss.objective={}", "model.encoder=spatial"],
            "model.encoder: model.dynamics pixels encodes nothing, so spatial would not be used",
        ),
        (
            ["model.dynamics=pixels", "loss.objective={}", "loss.smooth=1"],
            "loss.smooth: model.dynamics pixels encodes nothing",
        ),
        (
            ["model.dynamics=mlp", "env.obs=state", "loss.objective={}", "model.encoder=spatial"],
            "model.encoder: model.dynamics mlp encodes nothing",
        ),
        (
            ["model.dynamics=simulator", "model.encoder=spatial"],
            "model.encoder: model.dynamics simulator encodes nothing",
        ),
        (["loss.blobs=1"], "loss.blobs: cnn finds no feature points; set model.encoder spatial"),
        (["loss.grey=1"], "loss.grey: cnn finds no feature points; set model.encoder spatial"),
        (
            ["gps", "model.encoder=spatial", "loss.grey=1"],
            "loss.grey: model.dynamics frame_stack learns from the policy alone",
        ),
        (
            ["gps", "model.encoder=spatial", "loss.smooth=1"],
            "loss.smooth: model.dynamics frame_stack learns from the policy alone",
        ),
        (
            ["model.encoder=spatial", "env.obs=state"],
            "model.encoder: spatial finds points in pictures",
        ),
        (["spatial.channels=[]"], "spatial.channels: expected a list of values"),
        (["model.encoder=spacial"], "did you mean spatial"),
    ],
)
def test_what_cannot_be_is_one_line(keys, words):
    with pytest.raises(loading.ConfigError) as error:
        loading.parse(["debug", *keys])
    (line,) = error.value.problems
    assert words in line and "\n" not in line


def test_a_model_that_sees_no_picture_has_no_points():
    hidden = ("env.obs=both", "model.unseen=[image]", "loss.smooth=1")
    with pytest.raises(
        UsageError, match="finds points in pictures, and the model sees only vector;"
    ):
        make(*SPATIAL, *hidden, vector=(VECTOR,))


def test_points_are_drawn_where_they_are():
    pictures = np.zeros((2, 32, 48, 3), np.uint8)
    points = np.array([[[-1 + 1 / 48, -1 + 1 / 32], [0.5, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    drawn = feature_points.draw_points(pictures, points)
    assert drawn.shape == (2, 192, 288, 3)
    first, second = feature_points.choose_colours(2)
    assert first != second
    for t, k, row, column in ((0, 0, 3, 3), (0, 1, 96, 216), (1, 0, 191, 287), (1, 1, 96, 144)):
        assert tuple(drawn[t, row, column]) == (first, second)[k]
    assert (drawn > 0).any(-1).mean() < 0.01
    grey = feature_points.draw_points(np.zeros((1, 32, 32, 4), np.uint8), np.zeros((1, 1, 2)))
    assert grey.shape == (1, 192, 384, 3) and not grey[:, :, 192:].any()


def test_points_of_several_pictures_keep_their_places_in_the_joined_one():
    """Beside a first picture 6 wide stands a second, which is doubled in size and 8 wide."""
    shapes = {"one": (6, 6, 3), "two": (3, 4, 3)}
    points = {"two": np.array([[-1.0, -1.0], [1.0, 0.0]]), "one": np.array([[0.0, 1.0]])}
    found = feature_points.join_points(points, shapes)
    np.testing.assert_allclose(found, [[3 / 14, 1.0], [6 / 14, 0.0], [1.0, 0.5]])


def test_a_run_with_points_is_imagined_and_its_points_are_shown(tmp_path):
    own = ("--model.encoder", "spatial", "--spatial.points", "5", "--spatial.channels", "[4]")
    train(tmp_path, "--env.task", "pushing", "--loss.smooth", "0.1", *own)
    run = seed_dir(tmp_path, "pushing")
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert any(row.get("train/loss/smooth", 0) > 0 for row in rows)
    out, _ = evaluate(run, "imagine", "--length", "4", "--samples", "2")
    assert "feature points: the one that moves most" in out
    points = np.array(json.loads((run / "eval" / "points.json").read_text())["points"]["image"])
    assert points.shape[1:] == (5, 2) and np.abs(points).max() <= 1
    with Image.open(run / "eval" / "points.png") as picture:
        assert picture.height > 192
    evaluate(run, "report")
    assert "Feature points of the encoder" in (run / "eval" / "report.html").read_text()


def test_the_weights_are_counted_before_they_are_made():
    from worldmodel import memory_estimate
    from worldmodel.spaces import ActionSpace, ObservationSpace

    c = loading.parse(["debug", "model.encoder=spatial", "spatial.channels=[1000000]"])
    obs = ObservationSpace({"image": (H, W, 3)})
    assert memory_estimate.find_widest_layer(c, obs) == 10**6
    large = ObservationSpace({"image": (800, 400, 3)})
    c = loading.parse(["debug", *SPATIAL, "loss.grey=1", "model.cnn=[1, 1, 1, 1]"])
    assert memory_estimate.find_widest_layer(c, large) == 200 * 100
    small = loading.parse(["debug", *SPATIAL, "loss.grey=1"])
    counted = memory_estimate.count_weights(small, obs, ActionSpace(A))
    model = build.make_model(small, obs, ActionSpace(A))
    assert counted == sum(p.numel() for p in model.parameters())
