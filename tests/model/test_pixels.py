"""Dynamics that move pixels: what kernels and masks do, and the contract of all dynamics."""

import json
import math

import pytest
import torch
from PIL import Image

from runs import evaluate, seed_dir, train
from worldmodel import build
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.kernels import moved_pixels
from worldmodel.model.dynamics.pixels import mix_pixels, move_pixels
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state
from worldmodel.training.learner import Learner

B, T, A, H, W, K, C = 3, 6, 2, 16, 20, 4, 6
TINY = [
    "debug",
    "model.dynamics=pixels",
    "loss.objective={}",
    f"pixels.kernels={K}",
    f"pixels.channels={C}",
    f"env.size=[{H}, {W}]",
    "model.cnn=[4]",
    "replay.length=6",
    "loss.overshooting=3",
    "run.precision=fp32",
]


def make(*overrides, shape=(H, W, 3)):
    torch.manual_seed(0)
    c = loading.parse([*TINY, *overrides])
    return c, build.make_model(c, ObservationSpace({"image": shape}), ActionSpace(A))


def make_batch(seed=0, length=T):
    g = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(B, length, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 3] = True
    return {
        "image": torch.randint(0, 256, (B, length, H, W, 3), generator=g, dtype=torch.uint8),
        "prev_action": torch.rand(B, length, A, generator=g) * 2 - 1,
        "reward": torch.randn(B, length, generator=g),
        "is_first": is_first,
        "is_last": is_first.roll(-1, 1),
        "is_terminal": torch.zeros(B, length, dtype=torch.bool),
    }


def test_a_kernel_of_a_single_one_shifts_its_own_picture():
    pictures = torch.rand(2, 3, 6, 8)
    kernels = torch.zeros(2, 2, 3, 3)
    kernels[0, 0, 1, 1] = 1.0  # stays
    kernels[0, 1, 1, 0] = 1.0  # each pixel becomes its left neighbour: to the right
    kernels[1, 0, 2, 1] = 1.0  # each becomes its lower neighbour: up
    kernels[1, 1] = 1 / 9
    moved = move_pixels(pictures, kernels)
    assert moved.shape == (2, 2, 3, 6, 8)
    torch.testing.assert_close(moved[0, 0], pictures[0])
    torch.testing.assert_close(moved[0, 1, :, :, 1:], pictures[0, :, :, :-1])
    torch.testing.assert_close(moved[0, 1, :, :, 0], pictures[0, :, :, 0], msg="edges are kept")
    torch.testing.assert_close(moved[1, 0, :, :-1], pictures[1, :, 1:])
    torch.testing.assert_close(moved[1, 1, :, 2, 3], pictures[1, :, 1:4, 2:5].mean((1, 2)))


def test_a_prediction_is_a_mean_of_pixels_that_were_seen():
    """Of a constant picture it is the constant; of any, it stays in the range of what was seen."""
    _, model = make()
    dynamics = model.dynamics
    state = dynamics.initial(B)
    flat = torch.tensor([-0.5, 0.1, 0.4]).view(B, 1).expand(-1, H * W * 3)
    same = {**state, "picture": flat, "first": flat}
    torch.testing.assert_close(dynamics.imagine_step(same, torch.ones(B, A))["picture"], flat)
    picture, first = torch.rand(B, H * W * 3) * 0.3, 0.5 + torch.rand(B, H * W * 3) * 0.3
    found = dynamics.imagine_step({**state, "picture": picture, "first": first}, torch.ones(B, A))
    low = torch.minimum(picture.min(1).values, first.min(1).values)
    high = torch.maximum(picture.max(1).values, first.max(1).values)
    assert (found["picture"] >= low[:, None] - 1e-6).all()
    assert (found["picture"] <= high[:, None] + 1e-6).all()
    assert (found["picture"] - picture).abs().mean() < 0.2, "at first most pixels stay"


def test_a_sequence_equals_the_online_filter_and_its_priors_are_imagined_steps():
    _, model = make()
    batch = make_batch()
    embed, post, prior = model.observe(batch)
    torch.testing.assert_close(embed[0, 0].view(H, W, 3), batch["image"][0, 0] / 255 - 0.5)
    state = model.dynamics.initial(B)
    for t in range(T):
        action, first = batch["prev_action"][:, t], batch["is_first"][:, t]
        predicted = model.dynamics.imagine_step(state, action)["mean"]
        expected = torch.where(first[:, None], embed[:, t], predicted)
        torch.testing.assert_close(prior["mean"][:, t], expected, atol=1e-5, rtol=1e-4)
        state = model.dynamics.observe_step(state, embed[:, t], action, first, None)
        for key, value in state.items():
            torch.testing.assert_close(post[key][:, t], value, atol=1e-5, rtol=1e-4)


def test_a_first_step_forgets_and_remembers_its_own_picture():
    _, model = make()
    batch = make_batch()
    _, post, prior = model.observe(batch)
    tail = {k: v[1:2, 3:] for k, v in batch.items()}
    _, fresh, fresh_prior = model.observe(tail)
    for key, value in fresh.items():
        torch.testing.assert_close(post[key][1:2, 3:], value)
    torch.testing.assert_close(prior["mean"][1:2, 3:], fresh_prior["mean"])
    assert torch.equal(post["first"][1, 5], post["picture"][1, 3])
    assert torch.equal(post["first"][1, 2], post["picture"][1, 0])
    start = map_state(post, lambda v: v[:, 1])
    _, rest, _ = model.observe(
        {k: v[:, 2:] for k, v in batch.items()} | {f"start_{k}": v for k, v in start.items()}
    )
    torch.testing.assert_close(rest["hidden"], post["hidden"][:, 2:], atol=1e-5, rtol=1e-4)


def test_the_first_picture_shows_what_a_prediction_cannot_move_there():
    """With the mask on the first picture, the prediction is the first picture."""
    _, model = make()
    dynamics = model.dynamics
    with torch.no_grad():
        bias = dynamics.mask_net.phases.bias.view(4, K + 2)
        bias[:, 1] = 50.0
    state = dynamics.initial(B)
    picture, first = torch.rand(2, B, H * W * 3)
    found = dynamics.imagine_step({**state, "picture": picture, "first": first}, torch.ones(B, A))
    torch.testing.assert_close(found["picture"], first, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(16, 52, 3), (52, 16, 3), (16, 18, 3), (18, 16, 3)])
def test_pictures_that_are_too_large_or_not_divisible_by_four_are_refused(shape):
    with pytest.raises(UsageError, match=f"this environment has {shape[0]}x{shape[1]}"):
        make(shape=shape)


def test_losses_measure_the_picture_and_every_weight_learns():
    _, model = make()
    batch = make_batch()
    losses, _, post, feat = model.losses(batch)
    assert losses.keys() == model.scales.keys() == {"reward", "cont", "dyn", "rep", "overshoot"}
    _, _, prior = model.observe(batch)
    error = 0.5 * (post["picture"] - prior["mean"]).square().sum(-1)
    torch.testing.assert_close(losses["dyn"], error)
    assert (losses["dyn"][batch["is_first"]] == 0).all() and losses["dyn"].max() > 0
    assert feat.shape == (B, T, H * W * 3 + C)
    decoded = model.decode(feat)["image"]
    torch.testing.assert_close(decoded, batch["image"] / 255, atol=1e-6, rtol=0)
    model.loss(batch)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def draw_moves(length, seed):
    """Pictures of a square that actions move by two pixels, on a gradient; row 0 is at rest."""
    g = torch.Generator().manual_seed(seed)
    size = 16
    at = torch.randint(2, 11, (size, 2), generator=g)
    batch = {"image": [], "prev_action": []}
    background = torch.linspace(0, 90, 24).expand(16, -1)
    for t in range(length):
        action = torch.zeros(size, A)
        if t:
            side = torch.randint(0, A, (size,), generator=g)
            sign = torch.randint(0, 2, (size,), generator=g) * 2.0 - 1
            action[torch.arange(size), side] = sign
            at = (at + 2 * action.long()).clamp(0, 12)
        picture = background.clone().expand(size, -1, -1).clone()
        for n in range(size):
            x, y = at[n]
            picture[n, y : y + 4, x : x + 4] = 250
        batch["image"].append(picture[..., None].expand(-1, -1, -1, 3).to(torch.uint8))
        batch["prev_action"].append(action)
    batch = {k: torch.stack(v, 1) for k, v in batch.items()}
    flags = torch.zeros(size, length, dtype=torch.bool)
    is_first = flags.clone()
    is_first[:, 0] = True
    none = torch.zeros(size, length)
    return {**batch, "reward": none, "is_first": is_first, "is_last": flags, "is_terminal": flags}


def test_it_learns_what_actions_move():
    """Three predicted steps are far nearer to the truth than the last picture that was seen."""
    c, model = make("env.size=[16, 24]", "optim.lr=1e-2", "pixels.channels=8", shape=(16, 24, 3))
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    for update in range(120):
        learner.update(draw_moves(4, update))
    batch = draw_moves(5, 1000)
    with torch.no_grad():
        _, post, _ = model.observe(batch)
        start = map_state(post, lambda v: v[:, 1])
        future = model.dynamics.imagine(start, batch["prev_action"][:, 2:])
    truth = post["picture"][:, 2:]
    error = (future["picture"] - truth).square().mean((0, 2))
    still = (start["picture"].unsqueeze(1) - truth).square().mean((0, 2))
    assert (error < 0.5 * still).all(), (error, still)
    turned = model.dynamics.imagine(start, -batch["prev_action"][:, 2:])
    assert (turned["picture"] - truth).square().mean() > 2 * error.mean(), "the actions matter"


def test_without_gradients_pixels_move_the_same():
    g = torch.Generator().manual_seed(0)
    still, begun = torch.rand(2, 3, 4, H, W, generator=g)
    kernels = torch.rand(3, K, 5, 5, generator=g)
    masks = torch.rand(3, K + 2, H, W, generator=g).softmax(1)
    with torch.no_grad():
        fast = mix_pixels(still, begun, kernels, masks)
    torch.testing.assert_close(fast, mix_pixels(still, begun, kernels, masks))
    assert moved_pixels.mix_pixels(still, begun, kernels, masks) is None, "gradients are asked for"


def test_scheduled_sampling_feeds_predictions_back():
    """At the end of the schedule each prior follows from the prior before it, as imagined."""
    _, model = make("pixels.truth=2.0")
    dynamics, batch = model.dynamics, make_batch()
    exact = model.observe(batch)[2]["mean"]
    model.begin_update(batch, 0)
    assert dynamics.truth_share == pytest.approx(2 / 3)
    model.begin_update(batch, 8)
    assert dynamics.truth_share == pytest.approx(2 / (2 + math.exp(4)))
    model.begin_update(batch, 1000)
    embed, post, prior = model.observe(batch)
    torch.testing.assert_close(
        post["hidden"], dynamics.infer_states(embed, *history(batch))["hidden"]
    )
    torch.testing.assert_close(prior["mean"][:, 1], exact[:, 1], atol=1e-5, rtol=1e-4)
    start = map_state(post, lambda v: v[:, 0])
    future = dynamics.imagine(start, batch["prev_action"][:, 1:])["picture"]
    rows = [0, 2]  # without a start in the middle
    torch.testing.assert_close(prior["mean"][rows, 1:], future[rows], atol=1e-5, rtol=1e-4)
    after = dynamics.imagine(map_state(post, lambda v: v[1:2, 3]), batch["prev_action"][1:2, 4:])
    torch.testing.assert_close(prior["mean"][1:2, 4:], after["picture"], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(prior["mean"][:, 2:], exact[:, 2:], atol=1e-4)
    # A CUDA graph repeats what the device does: the share has to change in place.
    share = dynamics.truth_share
    model.begin_update(batch, 0)
    assert share is dynamics.truth_share and share == pytest.approx(2 / 3)


def history(batch):
    return batch["prev_action"], batch["is_first"], {}


def test_noise_is_drawn_from_the_prior_and_inferred_in_training():
    c, model = make("pixels.latent=3", "pixels.latent_kl=0.5")
    dynamics, batch = model.dynamics, make_batch()
    _, post, prior = model.observe(batch)
    divergence = prior["divergence"]
    assert (divergence >= 0).all() and divergence[:, 1:].max() > 0
    assert (divergence[batch["is_first"]] == 0).all()
    error = 0.5 * (post["picture"] - prior["mean"]).square().sum(-1)
    torch.testing.assert_close(dynamics.kl(post, prior), error + 0.5 * divergence)
    losses, *_ = model.losses(batch)
    model.loss(batch)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    start = map_state(post, lambda v: v[:, 1].detach())
    draw = [
        dynamics.imagine_step(start, batch["prev_action"][:, 2], torch.Generator().manual_seed(i))
        for i in (0, 0, 1)
    ]
    assert torch.equal(draw[0]["picture"], draw[1]["picture"])
    assert not torch.allclose(draw[0]["picture"], draw[2]["picture"])


def test_the_divergence_of_the_noise_is_that_of_gaussians():
    _, model = make("pixels.latent=3")
    dynamics, hidden = model.dynamics, torch.randn(B, C, H // 4, W // 4)
    picture = torch.randn(B, H * W * 3)
    torch.manual_seed(1)
    noise, found = dynamics._infer_noise(hidden, picture)
    seen = dynamics._look(picture)[1].flatten(1)
    q = dynamics.posterior_net(torch.cat([hidden.flatten(1), seen], -1))
    p = torch.distributions.Normal(*dynamics._read_normal(dynamics.prior_net(hidden.flatten(1))))
    q = torch.distributions.Normal(*dynamics._read_normal(q))
    torch.testing.assert_close(found, torch.distributions.kl_divergence(q, p).sum(-1))
    torch.manual_seed(1)
    torch.testing.assert_close(noise, q.mean + q.stddev * torch.randn(B, 3))


@pytest.mark.parametrize("keys", [("pixels.latent=2",), ("pixels.truth=5.0", "pixels.latent=2")])
def test_each_form_learns_what_actions_move(keys):
    c, model = make(
        *("env.size=[16, 24]", "optim.lr=1e-2", "pixels.channels=8", "loss.overshooting=1", *keys),
        shape=(16, 24, 3),
    )
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    for update in range(100):
        model.begin_update(draw_moves(4, update), update)
        learner.update(draw_moves(4, update))
    batch = draw_moves(5, 1000)
    with torch.no_grad():
        post = model.infer_states(batch)
        start = map_state(post, lambda v: v[:, 1])
        future = model.dynamics.imagine(start, batch["prev_action"][:, 2:])
    truth = post["picture"][:, 2:]
    error = (future["picture"] - truth).square().mean()
    assert error < 0.6 * (start["picture"].unsqueeze(1) - truth).square().mean()


@pytest.mark.parametrize("kind", ["belief", "kl"])
def test_the_distance_to_a_goal_is_that_of_the_pictures(kind):
    _, model = make()
    batch = make_batch()
    embed, post, _ = model.observe(batch)
    start = map_state(post, lambda v: v[:, 0])
    states = model.dynamics.imagine(start, batch["prev_action"][:, 1:3])
    found = model.measure_goal_distance(states, embed[:, 5:6], kind)
    square = (states["picture"] - embed[:, 5:6]).square().sum(-1)
    torch.testing.assert_close(found, square if kind == "belief" else 0.5 * square)


def test_under_autocast_pictures_keep_their_precision():
    _, model = make()
    batch = make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        embed, post, prior = model.observe(batch)
        model.loss(batch)[0].backward()
    torch.testing.assert_close(embed[0, 0].view(H, W, 3), batch["image"][0, 0] / 255 - 0.5)
    assert prior["mean"].dtype == post["hidden"].dtype == torch.float32
    exact = model.observe(batch)[2]["mean"]
    assert (exact - prior["mean"]).abs().max() < 0.05


@pytest.mark.parametrize(
    "keys, words",
    [
        (["env.size=[64, 64]"], "env.size: model.dynamics pixels takes up to 48x48"),
        (["env.size=[30, 32]"], "divisible by 4, not 30x32"),
        (["env.obs=state"], "it needs env.obs pixels, not state"),
        (["pixels.kernel_size=4"], "pixels.kernel_size: 4 is even"),
        (["model.backdrop=5"], "model.backdrop: model.dynamics pixels moves pixels as they are"),
        (["env.task=pointmass", "model.reward_head=known"], "model.dynamics pixels has none"),
        (["loss.objective={reconstruction: 1.0}"], "encodes nothing, so reconstruction"),
    ],
)
def test_what_cannot_be_is_one_line(keys, words):
    with pytest.raises(loading.ConfigError) as error:
        loading.parse([*TINY, *keys])
    assert any(words in problem and "\n" not in problem for problem in error.value.problems)


def test_other_pictures_are_refused():
    with pytest.raises(UsageError, match="up to 48x48, divisible by 4, and this environment has"):
        make(shape=(16, 21, 3))
    c = loading.parse(TINY)
    two = ObservationSpace({"left": (H, W, 3), "right": (H, W, 3)})
    with pytest.raises(UsageError, match="one picture; this environment has left, right"):
        build.make_model(c, two, ActionSpace(A))


def test_a_run_plans_to_a_goal_picture_and_is_imagined(tmp_path):
    small = ("--model.dynamics", "pixels", "--loss.objective", "{}", "--env.task", "pushing")
    train(
        tmp_path,
        *small,
        "--env.kwargs",
        "{shapes: 1}",
        "--pixels.channels",
        "4",
        "--pixels.kernels",
        "2",
        "--env.size",
        "[16, 16]",
        "--env.time_limit",
        "15",
        "--loss.probe",
        "false",
    )
    run = seed_dir(tmp_path, "pushing")
    evaluate(run, "report")
    page = (run / "eval" / "report.html").read_text()
    assert "no imagined rollout yet" in page and "has no decoder" not in page
    evaluate(run, "imagine", "--length", "4", "--samples", "2")
    found = json.loads((run / "eval" / "imagine.json").read_text())
    assert len(found["image_mse"]) == 4 and not (run / "eval" / "latents.json").exists()
    with Image.open(run / "eval" / "imagine.png") as picture:
        assert min(picture.size) > 100
    goal = tmp_path / "goal.png"
    Image.new("RGB", (16, 16), (44, 48, 57)).save(goal)
    evaluate(run, "--episodes", "1", "--planner.score", "goal_distance", "--goal.image", str(goal))
    returns = json.loads((run / "eval" / "returns.json").read_text())
    assert returns["successes"] == [False] and len(returns["scores"]) == 1


def test_a_single_channel_is_enough():
    _, model = make("pixels.channels=1")
    total, *_ = model.loss(make_batch(), False)
    assert torch.isfinite(total)


def test_features_hold_the_mean_of_the_recurrent_state_over_places():
    _, model = make()
    state = model.dynamics.initial(2)
    state["hidden"] = torch.randn_like(state["hidden"])
    for feat in (model.dynamics.features(state), model.dynamics.expected_features(state)):
        torch.testing.assert_close(feat[:, -C:], state["hidden"].flatten(2).mean(-1))


def test_noise_is_a_standard_normal_where_the_network_says_zero():
    _, model = make("pixels.latent=3")
    mean, std = model.dynamics._read_normal(torch.zeros(2, 6))
    assert (mean == 0).all() and (std - 1).abs().max() < 0.02
