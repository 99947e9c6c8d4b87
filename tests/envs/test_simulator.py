"""A simulator that is set to any state steps as the environment does from there."""

import textwrap

import gymnasium
import numpy as np
import pytest
from test_envs import missing

from worldmodel import envs
from worldmodel.config import loading

DMC = missing("worldmodel.envs.dmc.suite")
# One of each way in which episodes of the suite differ: goals, sizes, damping, tendons
SUITE = (
    "cartpole_swingup",
    "reacher_hard",
    "finger_turn_easy",
    "point_mass_hard",
    "ball_in_cup_catch",
)
NAMES = (
    *(name for name in envs.NAMES if name != "noisy_room"),
    *(pytest.param(f"dmc:{name}", marks=DMC) for name in SUITE),
    pytest.param("gym:Pendulum-v1", marks=missing("pygame")),
    pytest.param("gym:CartPole-v1", marks=missing("pygame")),
    "gym:Hopper-v5",
    "own_env:Watched",
)
OWN = """
    import gymnasium
    import numpy as np

    class Walk(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float64)
        action_space = gymnasium.spaces.Box(np.float32([2]), np.float32([6]))
        hidden = 0.0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.where, self.hidden = self.np_random.uniform(-1, 1), 0.0
            return np.array([self.where]), {}

        def step(self, action):
            self.hidden += action[0]
            self.where = np.sin(self.where + self.hidden)
            return np.array([self.where]), self.hidden, self.hidden > 60, False, {}

    class Watched(Walk):
        def get_simulator_state(self):
            return np.array([self.where, self.hidden])

        def set_simulator_state(self, state):
            self.where, self.hidden = state
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_env.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))


def make_both(name, repeat=3):
    env = loading.parse(["--env.task", name, "--env.repeat", str(repeat)]).env
    simulator = envs.make_simulator(env, trust=True)
    return envs.make(name, obs="state", repeat=repeat, simulator=True), simulator


def sample(space, generator):
    if isinstance(space, gymnasium.spaces.Box):
        return generator.uniform(-1, 1, space.shape).astype(np.float32)
    return int(generator.integers(space.n))


def check_steps(name):
    """Step an environment; of each step the simulator says the same from the state before."""
    env, simulator = make_both(name)
    generator = np.random.default_rng(0)
    other, _ = env.reset(seed=9)
    terminated = 0
    for seed in (4, 5, 6, 7):
        env.reset(seed=seed)
        for _ in range(6):
            before, action = env.env.access.read(), sample(env.action_space, generator)
            # The other row comes first, so that nothing of it may be left behind.
            rows = np.stack([other["simulator"], before])
            seen, reward, end, over, _ = env.step(action)
            after, rewards, ends = simulator.step(rows, [action] * 2, seed=1)
            assert rewards[1] == pytest.approx(reward, abs=1e-9, rel=1e-6) and ends[1] == end
            if name != "catcher":  # where new items are random
                np.testing.assert_allclose(after[1], env.env.access.read(), atol=1e-9, rtol=1e-5)
            np.testing.assert_array_equal(seen["simulator"], np.float32(env.env.access.read()))
            terminated += end
            if end or over:
                break
    env.close()
    return terminated


@pytest.mark.parametrize("name", NAMES)
def test_a_step_from_a_set_state_is_the_real_one(name):
    terminated = check_steps(name)
    if name in ("cartpole", "own_env:Watched"):
        assert terminated, "episodes end, also in the middle of a repeat"


def test_a_noisy_step_follows_from_its_seed():
    _, simulator = make_both("noisy_room")
    rows, actions = np.full((2, 2), -0.5), np.zeros((2, 2))
    first = simulator.step(rows, actions, seed=3)[0]
    np.testing.assert_array_equal(first, simulator.step(rows, actions, seed=3)[0])
    assert not np.array_equal(first[0], first[1]), "each row has noise of its own"
    assert not np.array_equal(first, simulator.step(rows, actions, seed=4)[0])


def test_no_time_limit_ends_a_simulated_step():
    _, simulator = make_both("counter", repeat=4)
    state = np.array([[18.0, 0.0, 0.0]])  # of 20 steps
    after, rewards, ends = simulator.step(state, np.zeros((1, 1)), 0)
    assert after[0, 0] == 22 and rewards[0] == 19 + 20 + 21 + 22 and not ends[0]


@pytest.mark.parametrize("obs, others", [("pixels", {"image"}), ("both", {"image", "vector"})])
def test_the_state_comes_beside_what_is_observed(obs, others):
    env = envs.make("pendulum", obs=obs, size=(16, 16), simulator=True)
    seen = env.reset(seed=0)[0]
    assert set(seen) == {*others, "simulator"} and env.observation_space.contains(seen)
    np.testing.assert_array_equal(seen["simulator"], np.float32(env.unwrapped.state()))


@pytest.mark.parametrize(
    "name, words",
    [
        ("own_env:Walk", "give its class get_simulator_state()"),
        ("gym:FrozenLake-v1", "nobody can set the state of this simulator"),
        pytest.param("dmc:lqr_lqr_2_1", "draws a new model or terrain", marks=DMC),
    ],
)
def test_what_cannot_be_set_is_said_in_one_line(name, words):
    with pytest.raises(envs.EnvError, match=words.replace("(", r"\(").replace(")", r"\)")) as why:
        make_both(name)
    assert "\n" not in str(why.value) and why.value.exit_code == 3


def test_a_run_that_names_code_needs_trust():
    env = loading.parse(["--env.task", "own_env:Walk"]).env
    with pytest.raises(envs.EnvSettingsError, match="trust=True"):
        envs.make_simulator(env)
