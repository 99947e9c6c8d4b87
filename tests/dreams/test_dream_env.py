"""A saved world model as an environment."""

import shutil
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import worldmodel
from runs import ROOT, seed_dir, train
from worldmodel import DreamEnv
from worldmodel.errors import RunError
from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.replay.saved_episodes import SavedEpisodes


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagined")
    train(root, "--run.frames", "60")
    return seed_dir(root)


@pytest.fixture(scope="module")
def catcher_dir(tmp_path_factory):
    """Discrete actions, and episodes that end."""
    root = tmp_path_factory.mktemp("caught")
    train(root, "--env.task", "catcher", "--run.frames", "60")
    return seed_dir(root, "catcher")


@pytest.mark.parametrize("obs", ["pixels", "features"])
@pytest.mark.parametrize("fixture", ["run_dir", "catcher_dir"])
def test_gymnasium_accepts_it(fixture, obs, request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that features have no bounds
        check_env(
            DreamEnv(request.getfixturevalue(fixture), obs=obs, horizon=9, render_mode="rgb_array")
        )


def play_episode(env, seed=None, steps=6):
    """Everything an episode of fixed actions shows."""
    rng = np.random.default_rng(0)
    obs, info = env.reset(seed=seed)
    rows = [(obs, info)]
    for _ in range(steps):
        rows.append(env.step(rng.uniform(-1, 1, 1).astype(np.float32)))
    return rows


def same(one, two):
    return all(
        np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(one, two, strict=True)
    )


def test_episodes_are_a_function_of_the_seed(run_dir):
    env, other = DreamEnv(run_dir, seed=5), DreamEnv(worldmodel.load(run_dir), seed=5)
    first = play_episode(env)
    assert same(first, play_episode(other)) and same(first, play_episode(env, 5))
    again = play_episode(env)
    assert not same(first, again)  # the second episode of the same generator
    assert not same(first, play_episode(env, 6)) and same(first, play_episode(env, np.int64(5)))
    assert same(play_episode(other, 6), play_episode(env, 6))


def test_it_starts_from_replay_steps(run_dir):
    env = DreamEnv(run_dir, context=3)
    starts = {tuple(env.reset()[1].values()) for _ in range(12)}
    assert len(starts) > 6
    obs, info = env.reset(seed=1)
    rows = env.dream._saved.read_episode(info["episode"])
    assert (
        obs.shape == rows["image"].shape[1:]
        and obs.dtype == np.uint8
        and info["step"] < len(rows["image"])
    )


def test_it_starts_from_the_posterior_after_the_context(tmp_path):
    """With a deterministic latent: exactly the posterior of those rows."""
    train(
        tmp_path,
        "--model.latent",
        "deterministic",
        "--run.precision",
        "fp32",
        "--run.frames",
        "40",
    )
    env = DreamEnv(seed_dir(tmp_path), context=4)
    steps = set()
    for seed in range(5):
        _, info = env.reset(seed=seed)
        begin = max(0, info["step"] - 3)
        rows = {
            k: v[begin : info["step"] + 1]
            for k, v in SavedEpisodes(env.run.path).read_episode(info["episode"]).items()
        }
        post, _ = EvaluatedAgent(env.run.agent, 0).observe(
            {**rows, "is_first": np.arange(len(rows["reward"])) == 0}
        )
        for key in env.dream.states:
            torch.testing.assert_close(env.dream.states[key][0], post[key][-1], atol=1e-5, rtol=0)
        steps.add(len(rows["reward"]))
    assert 4 in steps


def test_it_stops_at_the_horizon_and_pays_the_predicted_reward(run_dir):
    env = DreamEnv(run_dir, obs="features", horizon=4, ends="threshold")
    env.reset(seed=0)
    steps = [env.step(np.zeros(1, np.float32)) for _ in range(4)]
    assert [truncated for *_, truncated, _ in steps] == [False, False, False, True]
    assert not any(terminated for _, _, terminated, _, _ in steps) and steps[0][4] == {"cont": 1.0}
    model = env.model
    for _ in range(2):
        obs, reward, *_ = env.step(np.ones(1, np.float32))
        feat = model.dynamics.features(env.dream.states)
        assert np.array_equal(obs, feat[0].float().numpy()) and reward == pytest.approx(
            float(model.reward.mean(feat)), rel=0.02
        )


@pytest.mark.parametrize("ends", ["sampled", "drawn", "threshold"])
def test_it_terminates_as_the_continuation_head_says(catcher_dir, ends):
    env = DreamEnv(catcher_dir, obs="features", ends=ends, horizon=1000)
    chance = 0.4 if ends == "threshold" else 0.7
    env.model.predict_for_planning = lambda feat: (feat.new_zeros(1), feat.new_full((1,), chance))
    env.reset(seed=0)
    share = np.mean([env.step(1)[2] for _ in range(300)])
    assert share == pytest.approx(0.3, abs=0.08) if ends != "threshold" else share == 1


def test_a_first_observation_may_be_given(run_dir, tmp_path):
    lone = tmp_path / "lone"
    shutil.copytree(run_dir, lone, ignore=shutil.ignore_patterns("replay"))
    env = DreamEnv(lone)
    with pytest.raises(RunError, match="no start in its replay"):
        env.reset(seed=0)
    picture = np.full((32, 32, 3), 7, np.uint8)
    first, info = env.reset(seed=0, options={"obs": picture})
    again, _ = env.reset(seed=0, options={"obs": {"image": picture}})
    assert np.array_equal(first, again) and info == {}
    assert env.step(np.zeros(1, np.float32))[0].shape == (32, 32, 3)
    with pytest.raises(ValueError, match="image of shape"):
        env.reset(options={"obs": picture[:16]})


@pytest.mark.parametrize(
    ("wrong", "wanted"),
    [
        ({"obs": "states"}, "'pixels' or 'features'"),
        ({"ends": "never"}, "'sampled' or 'threshold'"),
        ({"horizon": 0}, "horizon must be"),
        ({"context": 1.5}, "context must be"),
        ({"render_mode": "human"}, "render_mode must be"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
    ],
)
def test_user_errors(run_dir, wrong, wanted):
    with pytest.raises(ValueError, match=wanted):
        DreamEnv(run_dir, **wrong)


def test_wrong_actions_and_steps_before_a_reset(run_dir, catcher_dir):
    env = DreamEnv(run_dir)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))
    env.reset(seed=0)
    for wrong in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(ValueError, match="finite numbers"):
            env.step(wrong)
    choosing = DreamEnv(catcher_dir)
    choosing.reset(seed=0)
    with pytest.raises(ValueError, match="is no choice among"):
        choosing.step(17)
    for wrong in (-1, 0.5, "3"):
        with pytest.raises(ValueError, match="a seed must be"):
            env.reset(seed=wrong)
    with pytest.raises(RunError, match="is not a run directory"):
        DreamEnv(run_dir / "replay")


def test_a_model_that_cannot_draw_offers_features(tmp_path):
    short = ("--run.frames", "40", "--env.time_limit", "20")
    train(tmp_path, "--env.task", "pendulum", "--env.obs", "state", *short)
    with pytest.raises(ValueError, match="cannot draw"):
        DreamEnv(seed_dir(tmp_path, "pendulum"))
    env = DreamEnv(seed_dir(tmp_path, "pendulum"), obs="features")
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_the_package_imports_it_only_when_asked():
    code = (
        "import sys, worldmodel; assert 'torch' not in sys.modules; worldmodel.DreamEnv; assert "
        "'torch' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
