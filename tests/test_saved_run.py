"""Acting with a saved run: one observation, a batch, and as stable-baselines3 asks."""

import numpy as np
import pytest

import worldmodel
from runs import seed_dir, train
from worldmodel.errors import UsageError


@pytest.fixture(scope="module", params=["counter", "catcher"])
def run(tmp_path_factory, request):
    """A deterministic latent in fp32: what a row sees then depends on nothing else."""
    root = tmp_path_factory.mktemp("acting")
    actor = ("--behavior.name", "actor_critic", "--model.latent", "deterministic")
    actor += ("--run.precision", "fp32")
    train(root, "--env.task", request.param, "--run.frames", "60", *actor)
    return worldmodel.load(seed_dir(root, request.param))


def make_pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 32, 32, 3), np.uint8)


def test_a_batch_acts_as_its_rows_do(run):
    first, second = make_pictures(3), make_pictures(3, 1)
    actions, carry = run.act(first)
    assert actions.shape == (3, run.action_space.size)
    listed, _ = run.act([{"image": picture} for picture in first])
    later, _ = run.act(second, carry)
    for row in range(3):
        one, own = run.act(first[row])
        assert one.shape == actions[row].shape
        np.testing.assert_allclose(one, actions[row], atol=1e-5)
        np.testing.assert_allclose(one, listed[row], atol=1e-5)
        np.testing.assert_allclose(run.act(second[row], own)[0], later[row], atol=1e-5)


def test_rows_that_start_an_episode_forget(run):
    _, carry = run.act(make_pictures(2))
    fresh, _ = run.act(make_pictures(2, 1))
    mixed, _ = run.act(make_pictures(2, 1), carry, episode_start=[True, False])
    kept, _ = run.act(make_pictures(2, 1), carry)
    np.testing.assert_allclose(mixed, np.stack([fresh[0], kept[1]]), atol=1e-5)


def test_wrong_batches_are_refused(run):
    _, carry = run.act(make_pictures(2))
    with pytest.raises(UsageError, match="3 observations need a carry"):
        run.act(make_pictures(3), carry)
    with pytest.raises(UsageError, match="image of shape"):
        run.act(make_pictures(3)[None])


def test_it_predicts_as_the_models_of_stable_baselines3(run):
    pictures = make_pictures(4)
    actions, state = run.predict(pictures)
    again, state = run.predict(pictures, state, np.ones(4, bool), deterministic=True)
    assert np.array_equal(actions, again)
    shape = (4,) if run.action_space.discrete else (4, run.action_space.size)
    assert actions.shape == shape
    assert run.predict(pictures[0])[0].shape == shape[1:]
    run.predict(pictures, state, np.zeros(4, bool), deterministic=False)


def test_reprs_say_what_they_are(run):
    assert repr(run).startswith(f"Run({str(run.path)!r}: {run.config.env.task}, 60 frames, actor")
    assert repr(run.agent) == "Agent(RSSM, ActorPolicy, fp32 on cpu)"
    assert "image" in repr(run.observation_space) and "size=" in repr(run.action_space)


def test_stable_baselines3_evaluates_it(run):
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is missing")
    from stable_baselines3.common.evaluation import evaluate_policy

    scores, _ = evaluate_policy(run, worldmodel.DreamEnv(run, horizon=3), 2, warn=False)
    assert np.isfinite(scores)
