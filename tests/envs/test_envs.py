"""Every environment keeps one contract; the built-in tasks can be solved; mistakes are said in one
line.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from worldmodel.envs.tasks import rope
from worldmodel.envs.wrappers import (
    ActionRepeat,
    Check,
    EnvDataError,
    NormalizeAction,
    TimeLimit,
    count_frames,
    resize,
)

from worldmodel import envs
from worldmodel.config import loading

# Mean return over 100 seeds as the tasks' own files state it: the expert's, the random policy's.
RETURNS = {
    "pointmass": (93.1, 14.2),
    "pendulum": (125.4, 6.4),
    "catcher": (19.7, 1.1),
    "rope": (51.1, 1.4),
    "pushing": (-14.7, -67.1),
    "cartpole": (200.0, 27.1),
    "cartpole_swingup": (157.3, 2.4),
    "noisy_room": (32.3, 3.2),
    "planar": (30.3, 0.0),
    "pcc_planar": (30.3, 0.0),
    "pcc_pendulum": (83.0, 0.0),
    "pcc_cartpole": (49.3, 16.9),
}


def missing(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


CONTRACT = [
    *envs.NAMES,
    pytest.param("gym:CartPole-v1", marks=missing("pygame")),
    pytest.param("dmc:cartpole_balance", marks=missing("worldmodel.envs.dmc.suite")),
    "helper_env:Plain",
]


@pytest.fixture(autouse=True, scope="module")
def helper_module(tmp_path_factory):
    """Put modules on the path that stand for a user's own."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "helper_env.py").write_text(textwrap.dedent(HELPER))
    (folder / "needy_env.py").write_text("import no_such_simulator\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


HELPER = '''
    import gymnasium
    import numpy as np
    from gymnasium import spaces

    class Plain(gymnasium.Env):
        """Draws itself at the size it is given; its actions lie in [2, 6] x [-1, 0]; the last one is kept."""
        metadata = {"render_modes": ["rgb_array"]}
        observation_space = spaces.Box(-9.0, 9.0, (2,), np.float64)
        action_space = spaces.Box(np.float32([2, -1]), np.float32([6, 0]))

        def __init__(self, size=(10, 10), render_mode=None):
            self.size, self.render_mode = size, render_mode

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.where = self.np_random.uniform(-1, 1, 2)
            return self.where.copy(), {}

        def step(self, action):
            self.last = action
            self.where = self.where + action / 100
            return self.where.copy(), 1.0, False, False, {}

        def render(self):
            shade = int(abs(self.where[0]) * 50) % 256
            return np.full((*self.size, 3), shade, np.uint8)

    class Gray(Plain):
        """Observes a small gray image and takes a multi-discrete action."""
        observation_space = spaces.Box(0, 255, (12, 20), np.uint8)
        action_space = spaces.MultiDiscrete([2, 3, 4], start=[1, 0, 5])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.full((12, 20), 7, np.uint8), {}

        def step(self, action):
            self.last = action
            image = np.zeros((12, 20), np.uint8)
            image[:, 10:] = 200
            return image, 0.5, False, False, {}

    class Shifted(Plain):
        action_space = spaces.Discrete(3, start=-1)

    class Both(Plain):
        """Observes an image and a vector."""
        observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, (8, 6, 3), np.uint8), "vector": spaces.Box(-1.0, 1.0, (3,), np.float64)})

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"image": np.full((8, 6, 3), 5, np.uint8), "vector": np.array([0.1, 0.2, 0.3])}, {}

    class Unbounded(Plain):
        action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    class Blind(Plain):
        def render(self):
            return None

    class Nameless:
        pass
'''


def record(env: gymnasium.Env, seed: int, num_steps: int) -> list:
    """Return everything that an episode gives under fixed actions."""
    generator = np.random.default_rng(0)
    rows: list = [env.reset(seed=seed)[0]]
    for _ in range(num_steps):
        space = env.action_space
        if isinstance(space, spaces.Box):
            action = generator.uniform(-1, 1, space.shape).astype(np.float32)
        else:
            action = int(generator.integers(space.n))
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, reward, terminated, truncated, count_frames(env)))
        if terminated or truncated:
            break
    return rows


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("obs", ["pixels", "state", "both"])
@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name, obs):
    env = envs.make(name, size=(24, 36), obs=obs, repeat=3)
    space = env.observation_space
    parts = (
        dict(space.items())
        if obs == "both"
        else {{"pixels": "image", "state": "vector"}[obs]: space}
    )
    assert set(parts) == ({"image", "vector"} if obs == "both" else set(parts))
    if "image" in parts:
        assert parts["image"] == spaces.Box(0, 255, (24, 36, 3), np.uint8)
    if "vector" in parts:
        assert len(parts["vector"].shape) == 1 and parts["vector"].dtype == np.float32
    if isinstance(env.action_space, spaces.Box):
        assert env.action_space == spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)
        assert len(env.action_space.shape) == 1
    else:
        assert isinstance(env.action_space, spaces.Discrete) and env.action_space.start == 0

    first = record(env, 5, 25)
    assert space.contains(first[0]) and all(space.contains(row[0]) for row in first[1:])
    assert all(np.isfinite(row[1]) and isinstance(row[1], float) for row in first[1:])
    assert all(row[4] == 3 for row in first[1:-1]) and 1 <= first[-1][4] <= 3
    other = record(env, 6, 25)
    assert equal(record(env, 5, 25), first), "the same instance, after another episode"
    env.close()
    fresh = envs.make(name, size=(24, 36), obs=obs, repeat=3)
    assert equal(record(fresh, 5, 25), first), "a fresh instance"
    if name != "dmc:cartpole_balance" or obs == "state":
        assert not equal(other, first), "another seed"
    fresh.close()
    fresh.close()


@pytest.mark.parametrize("name", CONTRACT)
def test_gymnasiums_own_checker_passes(name):
    env = envs.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about wrappers and infinite bounds, which are meant
        # Those remake the env from its spec
        check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()


@pytest.mark.parametrize("name", envs.NAMES)
def test_rendering_agrees_with_the_picture_observed(name):
    env = envs.make(name, size=(48, 40))
    seen = [env.reset(seed=1)[0], *(env.step(env.action_space.sample())[0] for _ in range(6))]
    np.testing.assert_array_equal(seen[-1], env.render())
    assert len({image.tobytes() for image in seen}) > 3, "the picture moves"


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (50, 121), (128, 96)])
@pytest.mark.parametrize("name", envs.TASKS)
def test_any_size_shows_the_same_scene(name, size):
    """The middle square of any picture, averaged down, is the small picture."""
    image = envs.make(name, size=size).reset(seed=3)[0]
    assert image.shape == (*size, 3)
    side = min(size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    square = image[top : top + side, left : left + side]
    small = resize(square, (8, 8)).astype(float)
    reference = resize(envs.make(name, size=256).reset(seed=3)[0], (8, 8)).astype(float)
    assert np.abs(small - reference).mean() < 12


def returns(name: str, policy, num_seeds: int) -> tuple[float, float]:
    """Return the mean return and the share of episodes that terminated."""
    env = envs.make(name, obs="state")
    total, ends = 0.0, 0
    for seed in range(num_seeds):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(policy(env))
            total += reward
            over = terminated or truncated
        ends += terminated
    return total / num_seeds, ends / num_seeds


@pytest.mark.parametrize("name", envs.TASKS)
def test_expert_and_random_returns_are_as_stated(name):
    stated_expert, stated_random = RETURNS[name]
    text = importlib.import_module(f"worldmodel.envs.tasks.{name}").__doc__
    assert f"expert {stated_expert}, uniformly random actions {stated_random}." in text
    expert, expert_ends = returns(name, envs.load_expert(name), 100)
    generator = np.random.default_rng(0)

    def draw(env):
        space = env.action_space
        return (
            generator.uniform(-1, 1, space.shape)
            if isinstance(space, spaces.Box)
            else int(generator.integers(3))
        )

    random, random_ends = returns(name, draw, 100)
    assert expert == pytest.approx(stated_expert, rel=0.01)
    assert random == pytest.approx(stated_random, rel=0.35)
    # The leaning pole of the published task is within its goal for 16 steps by itself.
    factor = 2.5 if name == "pcc_cartpole" else 5
    assert expert >= (random / 4 if random < 0 else factor * random)
    if name == "catcher":
        assert expert_ends == 0 and random_ends > 0.9, "bombs end episodes, and can be dodged"
    elif name == "cartpole":
        assert expert_ends == 0 and random_ends == 1.0, "the pole falls, and can be balanced"
    else:
        assert expert_ends == random_ends == 0


def test_cartpole_takes_the_steps_of_its_benchmark():
    """The start by seed and two steps by hand, the second with the speeds of the first."""
    env = envs.make("cartpole", obs="state")
    first = env.reset(seed=3)[0]
    start = gymnasium.utils.seeding.np_random(3)[0].uniform(-0.05, 0.05, 4)
    np.testing.assert_array_equal(first, start.astype(np.float32))
    env.unwrapped.set_state(np.array([0.5, 0.0, 0.0, 0.0]))
    # At rest and upright: 10 / 1.1 from the push, -cos push / (l (4/3 - m / M)) for the angle.
    turn = -(10 / 1.1) / (0.5 * (4 / 3 - 0.1 / 1.1))
    pull = 10 / 1.1 - 0.05 * turn / 1.1
    once = env.step(np.float32([1.0]))[0]
    np.testing.assert_allclose(once, [0.5, 0.02 * pull, 0.0, 0.02 * turn], rtol=1e-6)
    twice = env.step(np.float32([-1.0]))[0]
    np.testing.assert_allclose(twice[[0, 2]], once[[0, 2]] + 0.02 * once[[1, 3]], rtol=1e-6)


def test_a_swinging_pole_keeps_its_energy_and_the_rail_its_cart():
    env = envs.make("cartpole_swingup", obs="state").unwrapped
    env.reset(seed=0)
    env.set_state(np.array([0.0, 0.0, 1.5, 0.0]))
    # Without a push the centre of mass stays: the cart moves against the pole.
    swings = [env.advance(np.zeros(1)) and env.state() for _ in range(150)]
    angles = np.abs([state[2] for state in swings])
    assert min(angles) == pytest.approx(1.5, abs=0.03), "as high as before on the other side"
    assert max(angles) == pytest.approx(np.pi, abs=0.2)
    centres = [1.1 * state[0] + 0.05 * np.sin(state[2]) for state in swings[:20]]
    np.testing.assert_allclose(centres, 0.05 * np.sin(1.5), atol=5e-3)
    for _ in range(100):
        env.advance(np.ones(1))
    assert env.state()[:2].tolist() == [2.4, 0.0]
    env.advance(-np.ones(1))
    assert 2.3 < env.state()[0] < 2.4 and env.state()[1] < 0


def test_the_noisy_room_is_noisy_on_its_carpet_and_empty_behind_its_wall():
    env = envs.make("noisy_room", obs="state")
    generator = np.random.default_rng(0)
    noise, clean, crossed = [], [], 0
    for seed in range(150):
        before = env.reset(seed=seed)[0]
        crossed_before = crossed
        for _ in range(60):
            action = generator.uniform(-1, 1, 2)
            after = env.step(action)[0]
            free = np.abs(before + [0.35, 0]).max() < 0.3  # no wall is in reach
            if free and before[1] < -0.2 or 0.0 < before[1] < 0.3 and free:
                rest = after - before - 0.08 * action
                (noise if before[1] < -0.2 else clean).append(rest)
            crossed = max(crossed, crossed_before + (after[0] >= 0.35))
            before = after
    assert len(noise) > 100 and len(clean) > 100
    np.testing.assert_allclose(clean, 0.0, atol=1e-6)
    assert np.std(noise, 0) == pytest.approx([0.06, 0.06], rel=0.15)
    assert crossed <= 1, "random episodes do not find the second room"


def test_the_walls_of_the_noisy_room_hold():
    env = envs.make("noisy_room", obs="state")
    env.reset(seed=0)
    point = env.unwrapped

    def push(x, y, action, steps=1):
        point.x, point.y = x, y
        for _ in range(steps):
            env.step(np.float32(action))
        return point.x, point.y

    assert push(0.15, 0.3, [1, 0]) == (0.2, 0.3)
    assert push(0.4, 0.3, [-1, 0]) == (0.35, 0.3)
    assert push(0.15, 0.6, [1, 0], 3)[0] == pytest.approx(0.39), "the door is open"
    assert push(0.3, 0.78, [0, 1]) == (0.3, 0.8), "the sides of the door are walls"
    assert push(0.8, 0.8, [1, 1]) == (0.85, 0.85)


def test_the_pendulum_cannot_be_lifted_without_a_swing():
    env = envs.make("pendulum", obs="state")
    for push in (-1.0, 1.0):
        env.reset(seed=0)
        angles = []
        for _ in range(149):
            env.step(np.float32([push]))
            angles.append(abs(env.unwrapped.state()[0]))
        assert min(angles) > 1.6, "a constant push never brings it level"


def test_the_rope_keeps_its_length_and_its_stiffness_whatever_is_done_to_it():
    env = envs.make("rope", obs="state")
    generator = np.random.default_rng(1)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(60):
            before = np.array(env.unwrapped.points)
            env.step(generator.uniform(-1, 1, 3))
            points = np.array(env.unwrapped.points)
            links = np.diff(points, axis=0)
            length = np.linalg.norm(links, axis=1)
            assert (
                np.abs(points).max() <= rope.TABLE_EDGE and length.max() < rope.LINK_LENGTH + 1e-9
            )
            assert np.linalg.norm(points - before, axis=1).max() > 0
            free = (
                np.abs(points).max(1) < rope.TABLE_EDGE - 1e-9
            )  # at the table's rim links are squeezed
            assert (
                length[free[1:] & free[:-1]].min(initial=rope.LINK_LENGTH)
                > 0.999 * rope.LINK_LENGTH
            )
            turn = np.diff(np.unwrap(np.arctan2(links[:, 1], links[:, 0])))
            if free.all():
                assert np.abs(turn).max() < rope.MAX_BEND + 1e-6


def test_the_ropes_ends_are_picked_by_the_ends_of_the_range_and_nothing_moves_without_a_move():
    env = envs.make("rope", obs="state")
    for where, pick in ((-1.0, 0), (1.0, rope.POINTS - 1), (0.01, rope.POINTS // 2)):
        env.reset(seed=2)
        before = np.array(env.unwrapped.points)
        env.step(np.float32([where, 0, 0]))
        np.testing.assert_allclose(env.unwrapped.points, before, atol=1e-9)
        env.step(np.float32([where, 0.4, -0.2]))
        moved = np.array(env.unwrapped.points)[pick] - before[pick]
        np.testing.assert_allclose(moved, [0.4 * rope.MOVE, -0.2 * rope.MOVE], atol=1e-6)


def test_the_ropes_goal_is_not_drawn():
    env = envs.make("rope")
    env.reset(seed=0)
    picture = env.render()
    env.unwrapped.goal = env.unwrapped.goal[::-1]
    np.testing.assert_array_equal(env.render(), picture)
    env.unwrapped.points = env.unwrapped.points[::-1]
    assert not np.array_equal(env.render(), picture), "one end is told from the other"


def test_in_the_catcher_a_bomb_terminates_and_standing_still_is_fatal():
    ended = []
    for seed in range(20):
        env = envs.make("catcher", obs="state")
        env.reset(seed=seed)
        terminated = truncated = False
        num_steps = 0
        while not terminated and not truncated:
            reward, terminated, truncated = env.step(1)[1:4]
            num_steps += 1
        assert not terminated or (reward == 0.0 and not truncated)
        ended.append(num_steps)
    assert np.mean(ended) < 75


def test_the_time_limit_counts_control_steps_and_repeat_stops_at_it():
    env = envs.make("counter", repeat=4, time_limit=10, obs="state")
    env.reset(seed=0)
    rows = [(*env.step(np.float32([0.5]))[:4], count_frames(env)) for _ in range(3)]
    assert [row[1] for row in rows] == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9 + 10]
    assert [row[3] for row in rows] == [False, False, True]
    assert [row[4] for row in rows] == [4, 4, 2]
    assert [row[0][0] for row in rows] == [4, 8, 10]


class Scripted(gymnasium.Env):
    """Plays back observations and rewards, and keeps the actions it gets."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, obs=None, reward=0.0):
        self.obs = np.zeros(2, np.float32) if obs is None else obs
        self.reward, self.actions = reward, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.actions.append(action)
        return self.obs, self.reward, False, False, {}


@pytest.mark.parametrize(
    "obs, reward, words",
    [
        (np.array([0, np.nan], np.float32), 0.0, "observation is not finite"),
        (np.zeros(3, np.float32), 0.0, r"observation has shape \(3,\), expected \(2,\)"),
        (np.zeros(2), 0.0, "observation has dtype float64, expected float32"),
        ([0.0, 0.0], 0.0, "observation is list"),
        (None, float("nan"), "reward must be one finite number"),
        (None, np.zeros(2), "reward must be one finite number"),
        (None, "1", "reward must be one finite number"),
    ],
)
def test_bad_data_is_stopped_at_the_boundary(obs, reward, words):
    env = Check(Scripted(obs, reward), "mine")
    env.reset(seed=0)
    with pytest.raises(EnvDataError, match=f"mine, step 1: {words}"):
        env.step(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "action", [[np.nan, 0, 0], [np.inf, 0, 0], [0, 0], [[0, 0, 0]], 0.0, ["a", "b", "c"], None]
)
def test_a_bad_action_never_reaches_the_environment(action):
    inner = Scripted()
    env = Check(inner, "mine")
    env.reset(seed=0)
    with pytest.raises(EnvDataError, match="mine, step 1: action"):
        env.step(action)
    assert inner.actions == []


def test_actions_are_bounded_and_cast():
    inner = Scripted()
    env = Check(inner)
    env.reset(seed=0)
    env.step([1.5, -2, 0.25])
    np.testing.assert_array_equal(inner.actions[0], np.float32([1, -1, 0.25]))
    assert inner.actions[0].dtype == np.float32


@pytest.mark.parametrize("action", [3, -1, 1.0, np.nan, [1], "1"])
def test_a_discrete_action_outside_its_range_is_refused(action):
    env = envs.make("catcher")
    env.reset(seed=0)
    with pytest.raises(EnvDataError, match="catcher, step 1: action"):
        env.step(action)
    for good in (2, np.int64(0), np.array(1, np.int32)):
        env.step(good)


def test_wrappers_compose():
    inner = Scripted(reward=2.0)
    env = ActionRepeat(TimeLimit(inner, 5), 3)
    env.reset(seed=0)
    assert env.step(np.zeros(3))[1:] == (6.0, False, False, {}) and count_frames(env) == 3
    assert env.step(np.zeros(3))[1:] == (4.0, False, True, {}) and count_frames(env) == 2
    env.reset(seed=0)
    assert env.step(np.zeros(3))[3] is False


def test_resize_averages_and_keeps_axes():
    image = np.zeros((12, 20, 3), np.uint8)
    image[:, 10:, 1] = 200
    small = resize(image, (6, 4))
    assert (
        small.shape == (6, 4, 3)
        and (small[:, 0] == 0).all()
        and (small[:, 3] == (0, 200, 0)).all()
    )
    checker = np.indices((40, 40)).sum(0).astype(np.uint8) % 2 * 200
    assert np.abs(resize(checker, (10, 10)).astype(int) - 100).max() <= 15
    assert resize(checker, (40, 40)).shape == (40, 40, 3)


def test_actions_are_scaled_to_a_users_bounds():
    env = envs.make("helper_env:Plain", obs="state")
    env.reset(seed=0)
    for action, expected in (([-1, 1], [2, 0]), ([0, 0], [4, -0.5]), ([1, -1], [6, -1])):
        env.step(np.float32(action))
        np.testing.assert_allclose(env.unwrapped.last, expected)
        assert env.unwrapped.last.dtype == np.float32


def test_a_users_class_gets_the_size_it_can_take():
    env = envs.make("helper_env:Plain", size=(30, 17), time_limit=2)
    assert env.unwrapped.size == (30, 17)
    env.reset(seed=0)
    assert env.step(np.zeros(2))[3] is False and env.step(np.zeros(2))[3] is True


def test_an_image_observation_is_the_picture_and_multi_discrete_actions_keep_their_start():
    env = envs.make("helper_env:Gray", size=(8, 10), repeat=2)
    assert env.action_space == spaces.MultiDiscrete([2, 3, 4])
    assert (env.reset(seed=0)[0] == 7).all()
    obs, reward, *_ = env.step(np.array([1, 2, 3]))
    assert obs.shape == (8, 10, 3) and obs[0, 0, 2] == 0 and obs[7, 9, 0] == 200 and reward == 1.0
    np.testing.assert_array_equal(env.unwrapped.last, [2, 2, 8])
    with pytest.raises(EnvDataError):
        env.step(np.array([2, 0, 0]))
    with pytest.raises(ValueError, match="obs=pixels"):
        envs.make("helper_env:Gray", obs="state")


def test_a_discrete_space_that_does_not_start_at_zero():
    env = envs.make("helper_env:Shifted")
    assert env.action_space == spaces.Discrete(3)
    env.reset(seed=0)
    env.step(0)
    assert env.unwrapped.last == -1


def test_a_dict_of_image_and_vector_is_taken_as_it_is():
    assert (
        envs.make("helper_env:Both", size=(16, 12)).reset(seed=0)[0] == np.full((16, 12, 3), 5)
    ).all()
    both = envs.make("helper_env:Both", size=(16, 12), obs="both").reset(seed=0)[0]
    np.testing.assert_array_equal(both["vector"], np.float32([0.1, 0.2, 0.3]))
    assert both["image"].shape == (16, 12, 3)


def test_a_gymnasium_id_without_pictures():
    env = envs.make("gym:CartPole-v1", obs="state", time_limit=30)
    assert env.observation_space.shape == (4,) and env.action_space == spaces.Discrete(2)
    assert equal(
        record(env, 4, 30), record(envs.make("gym:CartPole-v1", obs="state", time_limit=30), 4, 30)
    )
    pendulum = envs.make("gym:Pendulum-v1", obs="state")
    assert pendulum.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)


@pytest.mark.skipif(importlib.util.find_spec("pygame") is not None, reason="pygame is installed")
def test_a_missing_extra_is_one_line_with_the_pip_command():
    with pytest.raises(envs.EnvSettingsError, match=f"{sys.executable} -m pip install") as problem:
        envs.make("gym:CartPole-v1")
    assert "\n" not in str(problem.value) and problem.value.exit_code == 3


@pytest.mark.parametrize(
    "name, words",
    [
        ("pendulm", "did you mean 'pendulum'"),
        ("cartpole_balance", "did you mean 'dmc:cartpole_balance'"),
        ("dmc:walker_wlak", "did you mean 'dmc:walker_walk'"),
        ("dm:walker_walk", "did you mean 'dmc:walker_walk'"),
        ("CartPole-v1", "did you mean 'gym:CartPole-v1'"),
        ("gym:CartPol-v1", "did you mean 'gym:CartPole-v1'"),
        ("gym:CartPole-v7", "did you mean 'gym:CartPole-v1'"),
        ("gym:", "it must be"),
        ("no_such_module:Env", "no module 'no_such_module'"),
        ("helper_env:Plan", "did you mean helper_env:Plain"),
        ("helper_env.sub:Plain", "cannot import helper_env.sub"),
        ("needy_env:Env", "cannot import needy_env: No module named 'no_such_simulator'"),
        ("helper_env:Nameless", "not a gymnasium.Env"),
        ("helper_env:Unbounded", "finite bounds"),
        ("helper_env:Blind", "use obs=state"),
        ("", "it must be"),
    ],
)
def test_a_name_that_cannot_be_made_is_explained_in_one_line(name, words):
    with pytest.raises(ValueError) as problem:
        envs.make(name)
    assert words in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": (64,)}, "size"),
        ({"size": (64, 7)}, "size"),
        ({"repeat": 0}, "repeat"),
        ({"time_limit": 0}, "time_limit"),
        ({"obs": "pixel"}, "did you mean 'pixels'"),
        ({"camera": 1}, "camera"),
    ],
)
def test_an_option_that_cannot_be_is_explained(options, words):
    with pytest.raises(ValueError, match=words):
        envs.make("pendulum", **options)


@pytest.mark.parametrize(
    "name, answer",
    [
        ("pendulum", False),
        ("distract:pendulum", False),
        ("dmc:walker_walk", False),
        ("distract:dmc:walker_walk", False),
        ("gym:CartPole-v1", False),
        ("gym:NoSuchGame-v1", True),
        ("gym:ALE/Pong-v5", False),
        ("helper_env:Plain", True),
        ("distract:helper_env:Plain", True),
        ("distract:distract:pendulum", True),
        ("gym:helper_env:Plain-v0", True),
        ("gym:helper_env:mine/Plain-v0", True),
        ("distract:gym:helper_env:mine/Plain-v0", True),
        ("gym:Registered-v0", True),
        ("gym:RegisteredByName-v0", True),
        ("helper_env", True),
        ("", True),
    ],
)
def test_only_names_of_this_project_and_of_gymnasium_name_no_code(name, answer, monkeypatch):
    for other, entry in (("Registered-v0", Scripted), ("RegisteredByName-v0", "helper_env:Plain")):
        spec = gymnasium.envs.registration.EnvSpec(other, entry)
        monkeypatch.setitem(gymnasium.registry, other, spec)
    assert envs.names_code(name) is answer


def test_a_factory_makes_code_only_if_it_is_trusted():
    config = loading.parse(["debug", "--env.task", "helper_env:Plain"])
    with pytest.raises(ValueError, match="'helper_env:Plain' names code.*trust=True"):
        envs.make_factory(config.env, config.distract)
    trusted = envs.make_factory(config.env, config.distract, trust=True)
    assert trusted.args == ("helper_env:Plain",)


def test_there_is_an_expert_for_built_ins_only():
    with pytest.raises(ValueError, match="no expert for 'gym:CartPole-v1'"):
        envs.load_expert("gym:CartPole-v1")


def test_names_are_checked_without_importing_a_simulator():
    code = (
        "import sys\nfrom worldmodel import envs\n"
        "for name in ('pendulum', 'dmc:cup_catch', 'json.decoder:JSONDecoder'): "
        "envs.check_name(name)\n"
        "try: envs.check_name('dmc:walker_wlk')\n"
        "except ValueError: pass\n"
        "print(sorted({'numpy', 'gymnasium', 'dm_control', 'mujoco', 'torch', 'PIL'} & "
        "set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_gymnasium_ids_are_looked_up():
    envs.check_name("gym:CartPole-v1")
    with pytest.raises(ValueError, match="did you mean 'gym:CartPole-v1'"):
        envs.check_name("gym:CartPol-v1")


@missing("dm_control")
def test_the_list_of_the_suite_is_the_installed_one():
    code = "from dm_control import suite; print(*(f'{d}_{t}' for d, t in suite.ALL_TASKS))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(envs.SUITE) == sorted(out.stdout.split())


def test_infinite_action_bounds_are_refused():
    env = Scripted()
    env.action_space = spaces.Box(-np.inf, 1.0, (3,), np.float32)
    with pytest.raises(ValueError, match="finite bounds"):
        NormalizeAction(env, "mine")


def test_patience_cuts_an_episode_after_so_many_poor_steps_in_a_row():
    env = envs.make("catcher", patience=4)
    env.reset(seed=0)
    poor = 0
    for _ in range(200):
        _, reward, terminated, truncated, _ = env.step(1)
        poor = poor + 1 if reward <= 0 else 0
        assert truncated == (poor >= 4) or terminated
        if terminated or truncated:
            break
    assert truncated and not terminated


def test_patience_measures_reward_per_control_step():
    for floor, lasts in ((0.999, 3), (-1.0, 30)):
        env = envs.make("pointmass", repeat=2, patience=3, floor=floor, time_limit=60)
        env.reset(seed=1)
        steps = 0
        done = False
        while not done:
            *_, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
            done = terminated or truncated
            steps += 1
        assert steps == lasts


def test_the_short_name_in_a_checkout_is_another_name_of_the_same_classes():
    code = (
        "import envs, envs.parallel.vector as short, worldmodel.envs.parallel.vector as full\n"
        "from envs.tasks.counter import Counter\n"
        "from worldmodel.envs.tasks import counter\n"
        "from worldmodel import envs as package\n"
        "assert short is full and envs is package and Counter is counter.Counter\n"
        "assert full.__spec__.name == Counter.__module__.replace('tasks.counter', 'parallel.vector')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
