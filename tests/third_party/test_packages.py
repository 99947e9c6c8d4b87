"""Each third-party package for real: what is observed, a deterministic episode, an exact resume.

`.ci/third_party` makes the three environments in which these are installed; elsewhere each test is
skipped and says what is missing.
"""

import importlib.util

import numpy as np
import pytest
from gymnasium import spaces

from children import go, signalled_at
from runs import fingerprint, seed_dir
from worldmodel import envs
from worldmodel.config import loading
from worldmodel.run_directory import make_slug

# name: module, observations by name, number of actions or of their dimensions
CASES = {
    "minigrid": ("minigrid", {"image": (64, 64, 3)}, 7),
    "atari100k": ("ale_py", {"image": (64, 64, 3)}, 6),
    "atari200m": ("ale_py", {"image": (64, 64, 3)}, 18),
    "crafter": ("crafter", {"image": (64, 64, 3)}, 17),
    "box2d": ("Box2D", {"image": (64, 64, 3)}, 3),
    "pusht": ("gym_pusht", {"agent_pos": (2,), "pixels": (64, 64, 3)}, 2),
    "fetch": ("gymnasium_robotics", {"vector": (16,)}, 4),
    "metaworld": ("metaworld", {"vector": (39,)}, 4),
}
# Enough of a run to save, and to be stopped between two updates in an open episode.
BRIEF = (
    *("--env.repeat", "1", "--run.frames", "40", "--train.prefill", "20"),
    *("--train.updates_per_step", "0.2", "--env.size", "[32, 32]", "--env.time_limit", "12"),
)


def needed(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"the package {module} is not installed")


def every_case():
    return [pytest.param(name, marks=needed(case[0])) for name, case in CASES.items()]


def make(preset, **options):
    """The environment as the preset has it."""
    config = loading.parse([preset])
    return envs.make_factory(config.env, config.distract)(**options)


def play(env, seed, steps=30):
    """All that an episode gives under fixed actions, as bytes."""
    rng, obs = np.random.default_rng(0), env.reset(seed=seed)[0]
    found = []
    for _ in range(steps):
        found.append(
            b"".join(obs[k].tobytes() for k in sorted(obs))
            if isinstance(obs, dict)
            else obs.tobytes()
        )
        space = env.action_space
        if isinstance(space, spaces.Box):
            action = rng.uniform(-1, 1, space.shape).astype(np.float32)
        else:
            action = int(rng.integers(space.n))
        obs, reward, terminated, truncated, _ = env.step(action)
        found.append((reward, terminated, truncated))
        if terminated or truncated:
            break
    return found


@pytest.mark.parametrize("preset", every_case())
def test_what_is_observed_and_that_an_episode_depends_on_seed_and_actions_only(preset):
    _, shapes, actions = CASES[preset]
    env = make(preset)
    seen, acts = env.observation_space, env.action_space
    parts = seen.spaces if isinstance(seen, spaces.Dict) else {next(iter(shapes)): seen}
    assert {name: part.shape for name, part in parts.items()} == shapes
    assert (acts.n if isinstance(acts, spaces.Discrete) else acts.shape[0]) == actions
    first = play(env, 3)
    play(env, 4)  # leaves nothing behind
    assert play(env, 3) == first
    env.close()
    again = make(preset)
    assert play(again, 3) == first
    again.close()


@pytest.mark.parametrize("preset", every_case())
def test_a_training_that_is_stopped_ends_as_one_that_is_not(tmp_path, preset):
    env = loading.parse([preset]).env
    args = (
        preset,
        "debug",
        "--run.name",
        "debug",
        "--env.task",
        env.task,
        "--env.obs",
        env.obs,
        *BRIEF,
    )
    assert " observes " in go(tmp_path / "calm", *args)
    go(tmp_path / "stopped", *args, before=signalled_at(33, "SIGTERM"), expect=75)
    assert "came out elsewhere" not in go(tmp_path / "stopped", *args)
    calm, stopped = (
        seed_dir(tmp_path / name, make_slug(env.task)) for name in ("calm", "stopped")
    )
    assert fingerprint(calm) == fingerprint(stopped)


@needed("ale_py")
def test_atari_idles_first_and_shows_the_maximum_of_two_frames():
    env = make("atari100k", repeat=1, size=(210, 160))
    game, starts = env.unwrapped.ale, set()
    for seed in range(5):
        env.reset(seed=seed)
        starts.add(game.getEpisodeFrameNumber())
    assert len(starts) > 2 and max(starts) <= 30
    before = game.getScreenRGB()
    for _ in range(40):
        shown = env.step(2)[0]
        now = game.getScreenRGB()
        assert (shown == np.maximum(before, now)).all()
        before = now
    env.close()


@needed("ale_py")
def test_losing_a_life_ends_nothing():
    game = envs.make("gym:ALE/Breakout-v5", kwargs={"frameskip": 1, "noops": 3})
    game.reset(seed=0)
    lives, ended = game.unwrapped.ale.lives(), False
    for _ in range(400):
        _, _, ended, _, _ = game.step(1)  # fire: the ball falls past the paddle
        if game.unwrapped.ale.lives() < lives:
            break
    assert game.unwrapped.ale.lives() == lives - 1 and not ended
    game.close()


@needed("crafter")
def test_crafter_tells_achievements_and_death():
    env = envs.make("gym:CrafterReward-v1", kwargs={"length": 5})
    env.reset(seed=0)
    for _ in range(5):
        _, _, terminated, truncated, info = env.step(5)
    assert truncated and not terminated
    assert sum(key.startswith("achievement/") for key in info) == 22
    with pytest.raises(envs.EnvSettingsError, match="env.kwargs.wall: Crafter takes area"):
        envs.make("gym:CrafterReward-v1", kwargs={"wall": 1})


@needed("minigrid")
def test_wrong_kwargs_and_unknown_ids_are_one_line():
    for name, kwargs, words in (
        ("gym:MiniGrid-Empty-5x5-v0", {"wall": 1}, "unexpected keyword argument 'wall'"),
        ("gym:MiniGrid-Emtpy-5x5-v0", {}, "did you mean 'gym:MiniGrid-Empty-5x5-v0'"),
        (
            "gym:MiniGrid-Empty-5x5-v0",
            {"render_mode": "human"},
            "env.kwargs.render_mode cannot be set",
        ),
    ):
        with pytest.raises(envs.EnvSettingsError) as problem:
            envs.make(name, kwargs=kwargs)
        assert words in str(problem.value) and "\n" not in str(problem.value)


@needed("metaworld")
def test_meta_world_needs_a_task():
    with pytest.raises(envs.EnvSettingsError, match="--env.kwargs.env_name reach-v3"):
        envs.make("gym:Meta-World/MT1", obs="state")
    with pytest.raises(envs.EnvSettingsError, match="Invalid MT env name"):
        envs.make("gym:Meta-World/MT1", obs="state", kwargs={"env_name": "raech-v3"})
