"""The planar task: where the robot may be; and starts anywhere, of all tasks that offer them."""

import numpy as np
import pytest
from worldmodel.envs.tasks import pcc_planar, planar

from worldmodel import envs


def make(task="planar", **kwargs):
    return envs.make(task, obs="state", kwargs=kwargs).unwrapped


def test_free_places_are_those_whose_square_touches_no_disc():
    """Against a fine grid of points of the robot's square."""
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 41)] * 2), -1).reshape(-1, 2)
    free = 0
    for place in generator.uniform(0, 40, (400, 2)):
        points = place + grid
        inside = ((points >= 0) & (points <= 40)).all()
        gaps = np.linalg.norm(points[:, None] - np.array(planar.OBSTACLES), axis=-1)
        if abs(gaps.min() - planar.RADIUS) < 0.05:  # nearer than the grid tells
            continue
        wanted = inside and gaps.min() > planar.RADIUS
        assert planar.is_free(*place) == wanted, place
        free += wanted
    assert 200 < free < 360


def test_a_step_moves_by_three_units_and_a_collision_stays():
    task = make()
    task.reset(seed=0)
    for place, action, wanted in (
        ((5, 5), (1, -0.5), (8, 3.5)),
        ((5, 5), (9, 0), (8, 5)),  # actions are clipped
        ((5, 5), (0, -1.5 / 3 - 1), (5, 2)),
        ((5, 2), (0, -0.5), (5, 2)),  # the edge
        ((15.4, 20.5), (-1, 0), (15.4, 20.5)),  # an obstacle
        ((15.4, 20.5), (1, 0), (18.4, 20.5)),
    ):
        task.set_state(np.array(place, float))
        task.step(np.array(action, np.float32))
        np.testing.assert_allclose(task.state(), wanted, atol=1e-6)


def test_the_reward_is_the_share_of_steps_within_two_units_of_the_goal():
    task = make(goal=[30, 10])
    for place, wanted in (((30, 10), 1), ((30, 12), 1), ((30, 12.1), 0), ((28.5, 8.5), 0)):
        task.set_state(np.array(place, float))
        assert task.step(np.zeros(2, np.float32))[1] == wanted


def measure_expert(task, goal):
    """The expert's share of the steps in the goal, in each of 20 episodes."""
    env = envs.make(task, obs="state", kwargs={"goal": goal})
    expert, shares = envs.load_expert(task), []
    for seed in range(20):
        env.reset(seed=seed)
        shares.append(np.mean([env.step(expert(env))[1] for _ in range(40)]))
    return shares


@pytest.mark.parametrize("goal", [(35, 35), (35, 5), (5, 35)])
def test_the_expert_finds_a_way_to_every_corner(goal):
    shares = measure_expert("planar", goal)
    assert min(shares) >= 0.72  # the planar ceiling of the papers is about 0.75


def test_the_picture_is_black_and_white_and_shows_where_the_robot_is():
    env = envs.make("planar", size=(40, 40))
    env.reset(seed=0)
    env.unwrapped.set_state(np.array([5.5, 12.5]))
    picture = env.render()
    assert set(np.unique(picture[26:29, 4:7])) == {255} and picture[22, 5].max() == 0
    assert (picture == picture[..., :1]).all()
    white = (picture[..., 0] / 255).sum()
    assert white == pytest.approx(6 * np.pi * 2.5**2 + 9, rel=0.03)


def test_published_obstacles_block_where_the_robot_covers_their_centre():
    assert pcc_planar.is_free(20.5, 10) and not pcc_planar.is_free(20.5, 7)
    assert pcc_planar.is_free(22.1, 5.5) and not pcc_planar.is_free(21.9, 5.5)
    task = make("pcc_planar")
    task.reset(seed=0)
    for place, action, wanted in (
        ((18, 5.5), (1, 0), (18, 5.5)),  # an obstacle
        ((18, 10), (1, 0), (21, 10)),  # between two
        ((5, 3), (1, -1), (8, 1.5)),  # walls hold, and moves go on along them
    ):
        task.set_state(np.array(place, float))
        task.step(np.array(action, np.float32))
        np.testing.assert_allclose(task.state(), wanted, atol=1e-6)


@pytest.mark.parametrize("goal", pcc_planar.CORNERS)
def test_a_straight_way_leads_to_every_published_corner(goal):
    shares = measure_expert("pcc_planar", goal)
    assert 0.74 <= np.mean(shares) <= 0.78  # the published ceiling is about 0.75


BOUNDS = {
    "planar": ([1.5, 1.5], [38.5, 38.5]),
    "pcc_planar": ([1.5, 1.5], [38.5, 38.5]),
    "pendulum": ([-np.pi, -8], [np.pi, 8]),
    "cartpole": ([-2.4, -2, -0.2095, -2], [2.4, 2, 0.2095, 2]),
    "cartpole_swingup": ([-2.4, -2, -np.pi, -2], [2.4, 2, np.pi, 2]),
}


@pytest.mark.parametrize("task", BOUNDS)
def test_starts_anywhere_are_uniform(task):
    env, (low, high) = make(task, start="anywhere"), map(np.array, BOUNDS[task])
    starts = np.array([env.reset(seed=seed) and env.state() for seed in range(400)])
    shares = (starts - low) / (high - low)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert np.abs(shares.mean(0) - 0.5).max() < 0.06
    assert np.abs(shares.std(0) - 12**-0.5).max() < 0.03
    env = make(task)
    usual = np.array([env.reset(seed=seed) and env.state() for seed in range(50)])
    turns = np.stack([np.cos(usual), np.sin(usual)])  # an angle near pi may have either sign
    assert "planar" in task or turns.std(1).max() < 0.2
    assert "planar" not in task or (usual.min() >= 3 and usual.max() <= 7)


@pytest.mark.parametrize(
    ("task", "kwargs", "words"),
    [
        ("planar", {"goal": [5]}, "env.kwargs.goal must be x and y between 0 and 40, not"),
        ("planar", {"goal": [5, 41]}, "env.kwargs.goal must be x and y between 0 and 40, not"),
        ("planar", {"start": "there"}, "env.kwargs.start must be usual or anywhere, not 'there'"),
        ("pendulum", {"start": 3}, "env.kwargs.start must be usual or anywhere, not 3"),
        ("cartpole", {"stat": "usual"}, "env.kwargs.stat: cartpole takes start, did you mean"),
    ],
)
def test_wrong_arguments_are_one_line(task, kwargs, words):
    with pytest.raises(envs.EnvSettingsError) as caught:
        make(task, **kwargs)
    assert str(caught.value).startswith(words)
