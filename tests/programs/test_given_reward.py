"""Planning by a reward that the model never learned, which the command line names."""

import json

import pytest
import torch

from runs import evaluate, seed_dir, train
from worldmodel.errors import UsageError
from worldmodel.model.given_reward import GivenReward
from worldmodel.saved_run import Run

MODULE = """
import torch

def own(seen):
    gap = seen["vector"][..., :2] - seen["vector"][..., 4:]
    return 1 / (1 + gap.square().sum(-1) / 0.3**2)

def brightness(seen):
    return seen["image"].mean((-1, -2, -3)) + 0 * seen["vector"][..., 0]

def one(seen):
    return torch.ones(())
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    task = ["--env.task", "pointmass", "--env.obs", "both", "--env.time_limit", "12"]
    train(root, *task, "--run.frames", "60", "--behavior.name", "actor_critic", *IMAG)
    return seed_dir(root, "pointmass")


IMAG = ("--imag.starts", "4", "--imag.horizon", "2")


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_returns_by_the_given_reward_stand_beside_the_tasks_own(run_dir):
    out, _ = evaluate(run_dir, "--reward", "my_rewards:own", "--episodes", "3", "--envs", "2")
    found = json.loads((run_dir / "eval" / "my_rewards_own" / "returns.json").read_text())
    assert not (run_dir / "eval" / "returns.json").exists()  # where the task's own reward counts
    given = found["given_reward"]
    assert given["returns"] == pytest.approx(found["scores"], rel=1e-4)  # it is the task's own
    assert given["mean"] == pytest.approx(sum(found["scores"]) / 3, rel=1e-4)
    assert "return by my_rewards:own" in out and "the task's own return" in out
    saved, _ = evaluate(run_dir, "--reward", "my_rewards:own", "--from", "saved")
    assert f"return {found['eval/score']:.1f}" in saved


def test_compare_has_a_column_for_it_and_leaves_the_actor_out(run_dir):
    out, _ = evaluate(
        run_dir, "compare", "--reward", "my_rewards:own", "--episodes", "1", "--budgets", "0.5"
    )
    assert "by --reward" in out and "have learned another reward than my_rewards:own" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("random")]
    assert float(rows[0][-1]) == pytest.approx(float(rows[0][1]), abs=0.051)


def test_the_model_predicts_the_function_of_what_it_decodes(run_dir):
    run = Run.open(run_dir)
    import my_rewards

    again = run.replace_reward("my_rewards:brightness", my_rewards.brightness)
    feat = torch.randn(4, 3, run.model.dynamics.feature_size)
    seen = again.model.decode_observations(feat)
    assert seen["image"].shape == (4, 3, 32, 32, 3) and seen["vector"].shape == (4, 3, 6)
    reward, _ = again.model.predict_for_planning(feat)
    torch.testing.assert_close(reward, seen["image"].mean((-1, -2, -3)))
    assert again.agent.behavior.plans and again.policy is None
    carry = again.agent.init(1)
    obs = {k: torch.zeros(1, *v) for k, v in run.observation_space.items()}
    obs = {**obs, "image": obs["image"].byte(), "is_first": torch.ones(1, dtype=torch.bool)}
    action, _ = again.agent.act(obs, carry, "eval", torch.Generator().manual_seed(0))
    assert action.shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "more", "wanted"),
    [
        ("my_rewards", (), "is not of the form package.module:function"),
        ("no_such_module:f", (), "cannot import no_such_module"),
        ("my_rewards:brightnes", (), "did you mean brightness?"),
        ("my_rewards:one", (), "must return a tensor with one reward for each"),
        ("my_rewards:own", ("--behavior.name", "actor_critic"), "learned another reward than"),
    ],
)
def test_what_cannot_be_a_reward_is_answered_in_one_line(run_dir, name, more, wanted):
    out, err = evaluate(run_dir, "--reward", name, "--episodes", "1", *more, expect=2)
    assert wanted in err and err.count("\n") == 1


def test_rewards_must_be_one_number_for_each_observation():
    reward = GivenReward("f", lambda feat: {"vector": feat}, lambda seen: seen["vector"])
    with pytest.raises(UsageError, match=r"f returned a tensor \(2, 5\) for observations \(2,\)"):
        reward.mean(torch.zeros(2, 5))
