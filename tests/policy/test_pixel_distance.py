"""Designated pixels: what their score costs, and how they are tracked from step to step."""

import math

import pytest
import torch

from runs import evaluate, seed_dir, train
from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.dynamics import pixels
from worldmodel.policy.goals import PixelGoal
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state

H, W, A, D, SIDE = 12, 16, 2, 2, 5
TINY = [
    "debug",
    "model.dynamics=pixels",
    "loss.objective={}",
    "pixels.kernels=3",
    "pixels.channels=4",
    f"pixels.kernel_size={SIDE}",
    f"env.size=[{H}, {W}]",
    "model.cnn=[4]",
    "run.precision=fp32",
    "planner.score=pixel_distance",
    "goal.designated=[[5, 3], [2, 2]]",
    "goal.pixels=[[5, 9], [2, 2]]",
]
DESIGNATED, GOALS = torch.tensor([[5, 3], [2, 2]]), torch.tensor([[5, 9], [2, 2]])


def make(*overrides):
    torch.manual_seed(0)
    c = loading.parse([*TINY, *overrides])
    space = ActionSpace(A)
    model = build.make_model(c, ObservationSpace({"image": (H, W, 3)}), space)
    return c, model, build.make_behavior(c, model, space, None)


def make_state(model, batch):
    g = torch.Generator().manual_seed(1)
    state = map_state(model.dynamics.initial(batch), lambda v: torch.rand(v.shape, generator=g))
    return {k: v - 0.5 for k, v in state.items()}


def force_shift(model, columns, rows=0):
    """Every pixel moves by so many columns to the right and rows down, whatever the action."""
    with torch.no_grad():
        weights = torch.zeros(3, SIDE, SIDE)
        weights[0, SIDE // 2 - rows, SIDE // 2 - columns] = 50.0
        model.dynamics.kernel_net.bias.copy_(weights.flatten())
        bias = model.dynamics.mask_net.phases.bias.view(4, 5)
        bias[:, 2] = 50.0


def locate(spots):
    """Row and column of the most probable place (...,2)."""
    at = spots.argmax(-1)
    return torch.stack([at // W, at % W], -1)


@torch.no_grad()
def test_probabilities_move_as_a_picture_of_them_would():
    _, model, _ = make()
    dynamics, state = model.dynamics, make_state(model, 1)
    spots = torch.rand(1, D, H * W)
    spots, first = spots / spots.sum(-1, keepdim=True), torch.zeros(1, D, H * W)
    first[:, :, 7] = 1.0
    after = dynamics.imagine_step(dynamics.designate(state, spots, first), torch.ones(1, A))
    plain = dynamics.imagine_step(state, torch.ones(1, A))
    torch.testing.assert_close(after["picture"], plain["picture"], msg="the picture is as without")
    hidden = plain["hidden"]
    kernels, masks = dynamics._predict_motion(hidden, dynamics._look(state["picture"])[0])
    for d in range(D):
        shown, begun = (
            x[0, d].view(1, -1, 1).expand(-1, -1, 3).flatten(1) for x in (spots, first)
        )
        moved = dynamics._move(shown, begun, kernels, masks).view(H * W, 3)[:, 0]
        torch.testing.assert_close(dynamics.locate(after)[0, d], moved / moved.sum())
    again = dynamics.imagine_step(after, torch.zeros(1, A))
    torch.testing.assert_close(dynamics.locate(again).sum(-1), torch.ones(1, D))


@torch.no_grad()
def test_masks_below_the_least_move_nothing():
    """A kernel of 1 column has a tenth of each pixel, the rest stays."""
    _, model, behavior = make("goal.least_mask=0.2")
    still = locate_after_a_small_mask(model, behavior)
    _, model, behavior = make()
    leaked = locate_after_a_small_mask(model, behavior)
    assert still[0, 0].argmax() == leaked[0, 0].argmax() == 5 * W + 3
    assert still[0, 0, 5 * W + 3] == pytest.approx(1.0)
    assert leaked[0, 0, 5 * W + 3] == pytest.approx(0.9, abs=0.01)


def locate_after_a_small_mask(model, behavior):
    dynamics = model.dynamics
    force_shift(model, 1)
    share = torch.zeros(dynamics.settings.kernels + 2, H, W)
    share[0], share[2] = 0.9, 0.1
    predict = dynamics._predict_motion
    dynamics._predict_motion = lambda *inputs: (predict(*inputs)[0], share.expand(1, -1, -1, -1))
    score = behavior.make_score(model, make_state(model, 1), None)
    return dynamics.locate(dynamics.imagine_step(score.designate(), torch.ones(1, A)))


def test_masks_that_are_all_small_are_kept():
    masks = torch.full((1, 6, 2, 2), 1 / 6)
    masks[0, :, 0, 0] = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])
    found = pixels.drop_small_masks(masks, torch.tensor([0.25]))
    torch.testing.assert_close(found[0, :, 1, 1], masks[0, :, 1, 1])
    expected = torch.tensor([0.25, 0.05, 0, 0, 0, 0]) / 0.3
    torch.testing.assert_close(found[0, :, 0, 0], expected)


@pytest.mark.parametrize("at", ["every", "end"])
@torch.no_grad()
def test_the_cost_is_the_expected_distance_with_the_last_step_weighted(at):
    """The first pixel goes one column a step to its goal six columns away; the second leaves its
    own.
    """
    _, model, behavior = make(f"goal.at={at}", "goal.last=3.0")
    force_shift(model, 1)
    state = map_state(model.dynamics.initial(2), lambda v: v + 0.1)
    score = behavior.make_score(model, state, None)(torch.rand(2, 3, 4, A))
    steps = [(6 - t + t) / 2 for t in range(1, 5)]  # mean over both pixels
    expected = (sum(steps[:3]) if at == "every" else 0) + 3 * steps[3]
    torch.testing.assert_close(score, torch.full((2, 3), -expected), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_cost_of_spread_probabilities_is_a_mean_over_places():
    c, model, behavior = make("goal.last=1.0")
    state, plans = make_state(model, 2), torch.rand(2, 3, 4, A)
    found = behavior.make_score(model, state, None)(plans)
    dynamics, memory = model.dynamics, behavior.make_score.start_memory(model, 2)
    for b, n in ((0, 0), (1, 2)):
        here = dynamics.designate(
            map_state(state, lambda v, b=b: v[b : b + 1]), memory["now"][:1], memory["first"][:1]
        )
        cost = 0.0
        for action in plans[b, n]:
            here = dynamics.imagine_step(here, action[None])
            for d in range(D):
                for i, share in enumerate(dynamics.locate(here)[0, d].tolist()):
                    cost += share * math.dist((i // W, i % W), GOALS[d].tolist()) / D
        assert math.isclose(found[b, n], -cost, rel_tol=1e-4)


@torch.no_grad()
def test_each_environment_may_have_pixels_of_its_own():
    c, model, _ = make()
    aims = PixelGoal(torch.tensor([[[1, 1]], [[4, 8]]]), torch.tensor([[[1, 3]], [[4, 9]]]))
    state, plans = make_state(model, 2), torch.rand(2, 3, 4, A)
    both = build.make_plan_score(c, None, lambda: aims)(model, state, None)(plans)
    for i in range(2):
        own = PixelGoal(aims.designated[i : i + 1], aims.pixels[i : i + 1])
        make_score = build.make_plan_score(c, None, lambda own=own: own)
        alone = make_score(model, map_state(state, lambda v, i=i: v[i : i + 1]), None)
        torch.testing.assert_close(alone(plans[i : i + 1]), both[i : i + 1])


@torch.no_grad()
def test_the_model_tracks_pixels_until_an_episode_starts_anew():
    _, model, behavior = make("behavior.replan=2", "planner.horizon=3")
    force_shift(model, 2)
    state, carry = map_state(model.dynamics.initial(2), lambda v: v + 0.1), behavior.init(2)
    g, none = torch.Generator().manual_seed(0), torch.tensor([False, False])
    places = [locate(carry["memory/now"])]
    for t in range(3):
        first = torch.tensor([t == 0, t in (0, 2)])
        _, carry = behavior.act(state, carry, first if t != 1 else none, "eval", g)
        places.append(locate(carry["memory/now"]))
        torch.testing.assert_close(locate(carry["memory/first"])[0], DESIGNATED)
    column = torch.stack(places)[..., 0, 1]  # of the first pixel, by step and environment
    assert column.tolist() == [[3, 3], [5, 5], [7, 7], [9, 5]]


def test_registration_finds_the_colour_again():
    """The square is where the kernels did not expect it."""
    there = find_square()
    torch.testing.assert_close(there[4:7, 5:8], torch.full((3, 3), 1 / 9), rtol=0.02, atol=0)
    assert there.sum().item() == pytest.approx(1, abs=1e-4)


def test_registration_of_patches_finds_the_middle_again():
    there = find_square("goal.patch=5")
    assert there[5, 6] > 0.6 and there[5, 6] > 5 * there[5, 5]
    assert there.sum().item() == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def find_square(*keys):
    """Where a square is found that was three pixels farther left in the first picture: (H,W)."""
    spots = "goal.designated=[[5, 3]]", "goal.pixels=[[5, 9]]"
    _, model, behavior = make("goal.registration=0.1", *spots, *keys)
    picture = torch.zeros(2, 1, H, W, 3)
    picture[0, 0, 4:7, 2:5] = picture[1, 0, 4:7, 5:8] = torch.tensor([0.4, -0.3, 0.0])
    dynamics, seen = model.dynamics, picture.flatten(2)
    state = {**dynamics.initial(1), "picture": seen[1], "first": seen[0]}
    spread = torch.zeros(1, 1, H, W)
    spread[..., 2:9, 1:9] = 1 / 56
    memory = {
        "now": spread.flatten(2),
        "first": behavior.make_score.start_memory(model, 1)["first"],
    }
    score = behavior.make_score(model, state, None, memory)
    return dynamics.locate(score.designate()).view(H, W)


@pytest.mark.parametrize(
    "keys, words",
    [
        (["goal.patch=4"], "goal.patch: 4 is even"),
        (["goal.pixels=[[1, 1]]"], "as many places in goal.pixels, not 2 and 1"),
        (["goal.designated=null", "goal.pixels=null"], "needs pixels \\[row, column\\]"),
        (["goal.pixels=[[1, 1], [3, 16]]"], "goal.pixels: there is no pixel \\[3, 16\\]"),
        (["goal.designated=[[12, 1], [3, 5]]"], "goal.designated: there is no pixel \\[12, 1\\]"),
        (["model.dynamics=rssm", "loss.objective={reconstruction: 1.0}"], "a model that moves"),
    ],
)
def test_what_cannot_be_is_one_line(keys, words):
    with pytest.raises(loading.ConfigError, match=words):
        loading.parse([*TINY, *keys])


def test_a_saved_run_is_told_pixels_on_the_command_line(tmp_path):
    keys = ("--model.dynamics", "pixels", "--loss.objective", "{}", "--env.task", "pushing")
    keys += ("--pixels.channels", "4", "--pixels.kernels", "2", "--env.size", "[16, 16]")
    train(tmp_path, *keys, "--env.time_limit", "6", "--behavior.name", "random")
    run = seed_dir(tmp_path, "pushing")
    aim = (
        "--behavior.name",
        "mpc",
        "--planner.score",
        "pixel_distance",
        "--goal.pixels",
        "[[9, 3]]",
    )
    evaluate(run, "--episodes", "1", *aim, "--goal.designated", "[[4, 12]]")
    assert (run / "eval" / "returns.json").exists()


def test_the_motion_of_each_pixel_is_that_of_its_kernel():
    _, model, _ = make()
    force_shift(model, 2, -1)
    motion = model.dynamics.measure_motion(make_state(model, 3), torch.ones(3, A))
    wanted = torch.tensor([-1.0, 2.0]).expand(3, H, W, 2)
    torch.testing.assert_close(motion, wanted, atol=1e-4, rtol=0)


def test_a_picture_that_shows_the_colour_nowhere_corrects_nothing():
    _, model, _ = make()
    spots = torch.rand(1, D, H * W).softmax(-1)
    state = model.dynamics.designate(make_state(model, 1), spots, spots)
    state = {**state, "first": torch.zeros(1, H * W * 3), "picture": torch.ones(1, H * W * 3)}
    found = model.dynamics.register(state, 0.01)
    torch.testing.assert_close(model.dynamics.locate(found), spots)
    nowhere = {**state, "designated": torch.zeros_like(spots)}
    assert not model.dynamics.locate(model.dynamics.register(nowhere, 0.01)).any()
