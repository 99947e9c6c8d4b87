"""One model for another task of the same body: new heads, and nothing else, learn its rewards."""

import json

import numpy as np
import pytest
import torch

from runs import evaluate, fingerprint, mistaken, seed_dir, train
from worldmodel import envs
from worldmodel.evaluation.commands import play
from worldmodel.evaluation.returns import other_task
from worldmodel.evaluation.returns.other_task import RewardRecorder, Script, fit_heads, learn_task
from worldmodel.model.heads import ContinueHead, GaussianHead, KnownHead
from worldmodel.programs import evaluation
from worldmodel.programs.eval_options import parse_eval_arguments
from worldmodel.saved_run import Run

MODULE = """
import numpy as np
from worldmodel.envs.tasks.pendulum import Pendulum

class Hanging(Pendulum):
    def __init__(self):
        super().__init__(obs="state")

    def advance(self, action):
        reward, _ = super().advance(action)
        return 1 - reward, self.speed > 7.9

class Wide(Hanging):
    vector_size = 4

    def vector(self):
        return np.zeros(4, np.float32)
"""
STATE = ("--env.obs", "state", "--model.dynamics", "mlp", "--loss.objective", "{}")
FIT = ("--fit-episodes", "3", "--episodes", "2", "--planner.candidates", "8")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    task = ("--env.task", "pendulum", "--env.time_limit", "12", "--run.frames", "60")
    train(root, *task, *STATE, "--loss.overshooting", "1")
    return seed_dir(root, "pendulum")


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(other_task, "UPDATES", 20)


@pytest.mark.parametrize("source", ["fresh", "replay"])
def test_a_new_head_learns_the_other_tasks_rewards(run_dir, source):
    before = fingerprint(run_dir)
    own = run_dir / "eval" / "returns.json"
    own.unlink(missing_ok=True)
    words = ("--env.task", "my_tasks:Hanging", "--fit-from", source)
    out, _ = evaluate(run_dir, *words, *FIT)
    assert "trained on 60 frames of pendulum" in out
    assert "learning a new head from 3 episodes" in out
    folder = run_dir / "eval" / "my_tasks_Hanging"
    found = json.loads((folder / "task.json").read_text())
    assert (found["trained_on"], found["rewards"]) == ("pendulum", "learnt")
    assert found["episodes_from"] == source and len(found["returns"]) == 3
    returns = json.loads((folder / "returns.json").read_text())
    assert returns["task"] == "my_tasks:Hanging"
    assert min(returns["scores"]) > 6  # of 12 steps, each worth nearly 1 while it hangs
    assert not own.exists() and fingerprint(run_dir) == before
    saved, _ = evaluate(run_dir, "--env.task", "my_tasks:Hanging", "--from", "saved")
    assert f"return {returns['eval/score']:.1f}" in saved


def test_the_actor_is_left_out_of_a_comparison(run_dir):
    words = ("compare", "--env.task", "my_tasks:Hanging", "--budgets", "1", *FIT)
    out, _ = evaluate(run_dir, *words)
    assert "left out: actor; its actor and critic have learned another task" in out
    assert (run_dir / "eval" / "my_tasks_Hanging" / "compare.json").exists()
    assert not (run_dir / "eval" / "compare.json").exists()


def test_play_drives_the_other_task(run_dir, monkeypatch):
    served = []

    def serve(run, make, results, **options):
        with make() as made:
            served.append((run, made.observation_space, results))

    monkeypatch.setattr(play, "serve_play", serve)
    words = ("--env.task", "my_tasks:Hanging", "--no-browser", *FIT[:2], *FIT[4:])
    args = parse_eval_arguments([str(run_dir), "play", *words])
    evaluation.play(args, envs)
    ((run, seen, results),) = served
    assert seen.shape == run.observation_space["vector"]
    assert run.other_task == run.config.env.task == "my_tasks:Hanging"
    assert results == run_dir / "eval" / "my_tasks_Hanging" and run.agent.behavior.plans


def test_a_known_equation_needs_no_episodes(run_dir):
    """Trained on another task's name, the model predicts the vector that the equation takes."""
    run = Run.open(run_dir)
    again = run.replace_task("pendulum")
    reward, cont = again.model.reward, again.model.cont
    assert isinstance(reward, KnownHead) and isinstance(cont, KnownHead)
    vector = torch.tensor([[0.6, -0.8, 0.1]])
    feat = again.model.dynamics.features({"vector": vector})
    torch.testing.assert_close(reward.mean(feat), torch.tensor([0.8]))
    assert again.policy is None and again.agent.behavior.plans


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (("--env.task", "my_tasks:Wide"), 2, "must be a task of the same body"),
        (("--env.task", "cartpole"), 2, "must be a task of the same body"),
        (("imagine", "--env.task", "cartpole"), 2, "only returns, compare, play can use"),
        (("--env.task", "cartpole", "--reward", "a:b"), 2, "give one of them"),
        (
            ("--env.task", "my_tasks:Hanging", "--behavior.name", "actor_critic"),
            2,
            "have learned another task than my_tasks:Hanging",
        ),
    ],
)
def test_what_cannot_be_another_task_is_answered_in_one_line(run_dir, words, code, wanted):
    found, line = mistaken(run_dir, *words)
    assert found == code and wanted in line and "\n" not in line.strip()


def test_a_misspelt_task_gets_a_hint(run_dir):
    _, err = evaluate(run_dir, "--env.task", "pendulun", expect=2)
    assert "did you mean 'pendulum'" in err and err.count("\n") == 1


class Features:
    """A model of two heads on three features."""

    def __init__(self):
        torch.manual_seed(0)
        self.reward, self.cont = GaussianHead(3, 1, 16), ContinueHead(3, 1, 16)
        self.ends = torch.tensor(False)


def record_rows(terminal):
    data = RewardRecorder()
    data.feat = list(torch.randn(64, 3))
    data.reward = [float(f[0]) for f in data.feat]
    data.terminal = [terminal and bool(f[1] > 0) for f in data.feat]
    return data


@pytest.mark.parametrize("terminal", [False, True])
def test_heads_are_fitted_to_rewards_and_ends(monkeypatch, terminal):
    monkeypatch.setattr(other_task, "UPDATES", 400)
    model, data = Features(), None
    data = record_rows(terminal)
    fit_heads(model, data, torch.Generator().manual_seed(0))
    feat = torch.stack(data.feat)
    error = (model.reward.mean(feat) - torch.tensor(data.reward)).square().mean()
    assert error < 0.05 and bool(model.ends) == terminal
    going = model.cont.mean(feat) > 0.5
    assert (going == ~torch.tensor(data.terminal)).float().mean() > 0.9
    assert not any(p.requires_grad for p in model.reward.parameters())


def test_an_episode_without_end_is_cut(run_dir, monkeypatch):
    class Endless:
        def __init__(self, *_):
            pass

        def step(self, player):
            return [{"reward": 0.5, "is_last": False}]

    monkeypatch.setattr(other_task, "Rollout", Endless)
    monkeypatch.setattr(other_task, "fit_heads", lambda *_: None)
    run = Run.open(run_dir).replace_task("my_tasks:Hanging")
    assert learn_task(run, None, 0, 1) == [0.5 * 100_000]


def test_a_script_gives_seed_and_actions(run_dir):
    """The rewards are those of the scripted actions, whatever the agent would have done."""
    run = Run.open(run_dir).replace_task("my_tasks:Hanging")
    factory = envs.make_factory(run.config.env, run.config.distract, trust=True)
    actions = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    with envs.make_vector(factory, 1, timeout_s=60, restart_budget=0) as vector:
        found = learn_task(run, vector, 0, 9, [Script(3, actions), Script(4, actions)])
    task = factory()
    for seed, total in zip((3, 4), found, strict=True):
        task.reset(seed=seed)
        assert total == pytest.approx(sum(task.step(a)[1] for a in actions), rel=1e-5)
