"""Many dreams at once, as a vector environment of Gymnasium."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import worldmodel
from runs import seed_dir, train
from worldmodel import DreamEnv, DreamVectorEnv
from worldmodel.kernels import picture_decoder
from worldmodel.model.mean_image import to_pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Discrete actions, episodes that end, and a decoder that the C half supports."""
    root = tmp_path_factory.mktemp("caught")
    sizes = ("--model.cnn", "[16,16]", "--model.patch", "4", "--run.precision", "fp32")
    train(root, "--env.task", "catcher", "--run.frames", "60", *sizes)
    return worldmodel.load(seed_dir(root, "catcher"))


def set_chance(run, monkeypatch, chance):
    """Let every episode continue with a probability."""
    monkeypatch.setattr(
        run.model,
        "predict_for_planning",
        lambda feat: (feat.new_ones(len(feat)), feat.new_full((len(feat),), chance)),
    )


@pytest.mark.parametrize("obs", ["pixels", "features"])
def test_spaces_hold_what_is_observed(run, obs):
    envs = DreamVectorEnv(run, 3, obs=obs, horizon=4)
    seen, infos = envs.reset(seed=1)
    assert envs.observation_space.contains(seen) and infos["_episode"].all()
    for _ in range(6):
        seen, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(seen)
        assert rewards.shape == terminated.shape == truncated.shape == (3,)
    with pytest.raises(ValueError, match="is no choice among"):
        envs.step([0, 1, 17])


def play(envs, seed, steps=5):
    seen, infos = envs.reset(seed=seed)
    rows = [seen]
    for _ in range(steps):
        rows += envs.step(np.arange(envs.num_envs) % 3)[:4]
    return rows


def test_the_whole_vector_is_a_function_of_seeds_and_actions(run):
    one, two = DreamVectorEnv(run, 4, horizon=3), DreamVectorEnv(run, 4, horizon=3)
    first = play(one, 7)
    for seed in ([7, 8, 9, 10], np.arange(7, 11), np.int64(7)):
        assert all(map(np.array_equal, first, play(two, seed)))
    assert not all(map(np.array_equal, first, play(two, 8)))


def test_rows_start_where_a_single_dream_of_their_seed_does(run):
    envs, env = DreamVectorEnv(run, 3, seed=5), DreamEnv(run)
    _, infos = envs.reset()
    for row in range(3):
        _, info = env.reset(seed=5 + row)
        assert info == {"episode": infos["episode"][row], "step": infos["step"][row]}


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_batch_shows_what_the_model_decodes(run, monkeypatch, is_compiled):
    if not is_compiled:
        monkeypatch.setattr(picture_decoder, "load_library", lambda: None)
    envs = DreamVectorEnv(run, 3)
    envs.reset(seed=0)
    seen, *_ = envs.step([0, 1, 2])
    feat = run.model.dynamics.features(envs.dream.states)
    wanted = to_pixels(run.model.decode(feat[None])["image"])[0].numpy()
    assert np.abs(seen.astype(int) - wanted).max() <= is_compiled and wanted.std() > 1


def test_one_row_dreams_what_a_single_dream_does(run, monkeypatch):
    """With the same random numbers: those of a vector are its own."""
    set_chance(run, monkeypatch, 1.0)
    envs, env = DreamVectorEnv(run, 1, horizon=3), DreamEnv(run, horizon=3)
    envs.reset(seed=2)
    env.reset(seed=2)
    for dream in (envs.dream, env.dream):
        dream.generator.manual_seed(0)
        dream.states = {k: v.clone() for k, v in envs.dream.states.items()}
    for action in (0, 2, 1):
        many, one = envs.step([action]), env.step(action)
        assert np.array_equal(many[0][0], one[0]) and many[1][0] == one[1]
        assert (many[2][0], many[3][0]) == one[2:4]


def test_the_next_step_restarts(run, monkeypatch):
    set_chance(run, monkeypatch, 1.0)
    envs = DreamVectorEnv(run, 2, obs="features", horizon=2)
    envs.reset(seed=0)
    flags = []
    for _ in range(6):
        _, rewards, _, truncated, infos = envs.step([0, 0])
        flags.append(truncated[0])
        assert rewards[0] == (0.0 if "episode" in infos else 1.0)
    assert flags == [False, True, False, False, True, False]


def test_the_same_step_restarts(run, monkeypatch):
    set_chance(run, monkeypatch, 0.0)
    envs = DreamVectorEnv(run, 2, horizon=5, ends="threshold", autoreset_mode="SameStep")
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    envs.reset(seed=0)
    seen, _, terminated, _, infos = envs.step([0, 0])
    assert terminated.all() and infos["_final_obs"].all() and infos["_episode"].all()
    assert infos["final_obs"][0].shape == seen[0].shape
    assert not np.array_equal(infos["final_obs"][1], seen[1]) and (envs.steps == 0).all()


def test_only_masked_rows_are_reset_by_hand(run, monkeypatch):
    set_chance(run, monkeypatch, 1.0)
    envs = DreamVectorEnv(run, 3, obs="features", horizon=1, autoreset_mode="Disabled")
    envs.reset(seed=0)
    seen, *_ = envs.step([0, 0, 0])
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        envs.step([0, 0, 0])
    again, infos = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert np.array_equal(seen[[0, 2]], again[[0, 2]]) and not np.array_equal(seen[1], again[1])
    assert infos["_step"].tolist() == [False, True, False]


def test_first_observations_may_be_given(run):
    envs = DreamVectorEnv(run, 2)
    picture = np.full((32, 32, 3), 9, np.uint8)
    one, infos = envs.reset(seed=0, options={"obs": picture})
    both, _ = envs.reset(seed=0, options={"obs": np.stack([picture, picture])})
    assert np.array_equal(one, both) and infos == {}
    with pytest.raises(ValueError, match="2 episodes cannot start from 3"):
        envs.reset(options={"obs": np.stack([picture] * 3)})


def test_gymnasium_makes_both(run):
    env = gymnasium.make("worldmodel:worldmodel/Dream-v0", run=run.path, horizon=9)
    check_env(env.unwrapped, skip_render_check=True)
    envs = gymnasium.make_vec("worldmodel/Dream-v0", num_envs=3, run=run.path, horizon=9)
    assert isinstance(envs, DreamVectorEnv) and envs.reset()[0].shape == (3, 32, 32, 3)
    assert repr(envs) == (
        f"DreamVectorEnv({str(run.path)!r}, obs='pixels', horizon=9, context=5, ends='sampled', "
        "num_envs=3)"
    )


@pytest.mark.parametrize(
    ("wrong", "wanted"),
    [
        ({"num_envs": 0}, "num_envs must be"),
        ({"autoreset_mode": "never"}, "autoreset_mode must be .*'SameStep'"),
    ],
)
def test_user_errors(run, wrong, wanted):
    with pytest.raises(ValueError, match=wanted):
        DreamVectorEnv(run, **wrong)
    with pytest.raises(ValueError, match="need as many seeds"):
        DreamVectorEnv(run, 2).reset(seed=[1])
    for seed in (0.5, "12", [0, -1]):
        with pytest.raises(ValueError, match="a seed must be|as many seeds"):
            DreamVectorEnv(run, 2).reset(seed=seed)


def test_masks_that_restart_nothing_or_what_has_not_begun(run):
    envs = DreamVectorEnv(run, 2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call it without reset_mask"):
        envs.reset(seed=0, options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    for mask in ([True], [False, False], [1, 0]):
        with pytest.raises(ValueError, match="reset_mask must be 2 truth values"):
            envs.reset(options={"reset_mask": np.array(mask)})


def test_a_seed_is_that_of_restarted_rows_alone(run):
    envs = DreamVectorEnv(run, 2)
    envs.reset(seed=0)
    before = envs.rngs[0].bit_generator.state
    _, infos = envs.reset(seed=5, options={"reset_mask": np.array([False, True])})
    assert envs.rngs[0].bit_generator.state == before
    _, info = DreamEnv(run).reset(seed=6)
    assert info == {"episode": infos["episode"][1], "step": infos["step"][1]}
