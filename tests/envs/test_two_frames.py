"""The poles of PCC's and PC3's public code: two moments in a picture, and exact steps."""

import numpy as np
import pytest
import scipy.integrate

from worldmodel import envs

POLES = ["pcc_pendulum", "pcc_cartpole"]


def make(task, size=(48, 48), obs="pixels", **kwargs):
    return envs.make(task, size=size, obs=obs, kwargs=kwargs)


@pytest.mark.parametrize("task", POLES)
def test_red_shows_the_step_before_and_blue_and_green_what_is_now(task):
    env = make(task)
    picture = env.reset(seed=1)[0]
    assert (picture == picture[..., :1]).all(), "what rests is white"
    for action in (1.0, -1.0, 1.0):
        after = env.step(np.float32([action]))[0]
        np.testing.assert_array_equal(after[..., 0], picture[..., 1])
        np.testing.assert_array_equal(after[..., 1], after[..., 2])
        assert (after[..., 0] != after[..., 1]).any()
        picture = after
    env.unwrapped.set_state(env.unwrapped.state())
    still = env.render()
    np.testing.assert_array_equal(still, picture[..., 1:2].repeat(3, -1))
    before = env.unwrapped.state()
    env.unwrapped.disturb(np.full(len(before), 0.1))
    np.testing.assert_allclose(env.unwrapped.state(), before + 0.1)
    np.testing.assert_array_equal(env.render()[..., 0], still[..., 0])
    assert (env.render()[..., 1] != still[..., 1]).any()


@pytest.mark.parametrize("task", POLES)
def test_the_mask_covers_both_moments(task):
    env = make(task, start="anywhere")
    for seed in range(5):
        picture = env.reset(seed=seed)[0]
        assert ((env.unwrapped.mask() > 0) == (picture.max(-1) > 0)).mean() > 0.98


def differentiate_pendulum(t, s, torque):
    """m g l sin(angle) + torque over m l^2 / 3, with m 0.1, l 0.5 and torques up to 0.65."""
    return [s[1], (0.1 * 9.81 * 0.5 * np.sin(s[0]) + 0.65 * torque) / (0.1 * 0.5**2 / 3)]


def differentiate_cartpole(t, s, force):
    _, speed, angle, spin = s
    push = 10 * force + 0.1 * 0.5 * spin**2 * np.sin(angle)
    turn = (1.1 * 9.8 * np.sin(angle) - np.cos(angle) * push) / (
        4 / 3 * 1.1 * 0.5 - 0.1 * 0.5 * np.cos(angle) ** 2
    )
    return [speed, (push - 0.1 * 0.5 * turn * np.cos(angle)) / 1.1, spin, turn]


@pytest.mark.parametrize(
    ("task", "slope"),
    [("pcc_pendulum", differentiate_pendulum), ("pcc_cartpole", differentiate_cartpole)],
)
def test_steps_are_those_of_an_exact_solver(task, slope):
    env, generator = make(task, obs="state").unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(20):
        state, action = generator.uniform(-0.6, 0.6, len(env.state())), generator.uniform(-1, 1)
        env.set_state(state)
        env.step(np.array([action]))
        solved = scipy.integrate.solve_ivp(slope, (0, 0.02), state, args=(action,), rtol=1e-9)
        np.testing.assert_allclose(env.state(), solved.y[:, -1], atol=2e-5)


def test_angles_are_wrapped_and_speeds_bounded():
    env = make("pcc_pendulum", obs="state").unwrapped
    env.reset(seed=0)
    env.set_state(np.array([3.1, 9.4]))
    env.step(np.ones(1))
    assert -np.pi <= env.state()[0] < -2.9 and env.state()[1] == pytest.approx(3 * np.pi)


@pytest.mark.parametrize(
    ("task", "entry", "bound"), [("pcc_pendulum", 0, np.pi), ("pcc_cartpole", 2, np.pi / 10)]
)
def test_starts_anywhere_are_wide_and_show_a_random_step(task, entry, bound):
    env = make(task, start="anywhere")
    angles, moved = [], 0
    for seed in range(300):
        picture = env.reset(seed=seed)[0]
        moved += (picture[..., 0] != picture[..., 1]).any()
        angles.append(env.unwrapped.values_before[entry])
    assert moved > 280
    assert max(angles) < bound and min(angles) > -bound
    assert np.std(angles) == pytest.approx(bound / 3**0.5, rel=0.1)
