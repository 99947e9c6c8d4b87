"""`eval.py RUN model`: a file of numbers, a page of plots and a summary."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import worldmodel
from runs import ROOT, evaluate, mistaken, seed_dir, train
from worldmodel.evaluation.imagination.open_loop import imagine_open_loop
from worldmodel.evaluation.quality import held_out_episodes
from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.held_out_episodes import load_replay_episodes
from worldmodel.evaluation.quality.plan_returns import imagine_plans

QUICK = ("--episodes", "3", "--starts", "2", "--plans", "4", "--follow", "5")
FEWEST = ("--episodes", "2", "--starts", "1", "--plans", "4", "--follow", "3", "--length", "4")
BRIEF = ("--env.time_limit", "15", "--log.eval", "0")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Pictures that actions change, episodes of a known length."""
    root = tmp_path_factory.mktemp("measured")
    train(root, "--env.task", "pointmass", "--run.frames", "60", *BRIEF)
    return seed_dir(root, "pointmass")


def result(run_dir):
    return json.loads((run_dir / "eval" / "model.json").read_text())


def test_it_writes_numbers_plots_and_a_summary(run_dir):
    out, err = evaluate(run_dir, "model", *QUICK, "--length", "6", figures=True)
    found = result(run_dir)
    assert found["source"] == "fresh" and found["episodes"] == 3 and found["steps"] == 3 * 16
    assert len(found["windows"]) == 6 and min(found["windows"]) > 0
    for kind in ("mse", "psnr", "ssim"):
        assert all(len(found[kind][guess]) == 6 for guess in ("model", "copy", "mean"))
    assert len(found["kl"]["model"]) == 6 == len(found["reward"]["correlation"]["copy"])
    assert all(
        len(found["kl"][guess]) == 6 == len(found["continuation"]["brier"][guess])
        for guess in ("copy", "mean")
    )
    assert len(found["continuation"]["reliability_by_horizon"]) == 6
    # Numbers of its state
    assert len(found["probe"]["open_loop"]) == 6 and len(found["probe"]["posterior"]) == 6
    assert len(found["sensitivity"]["agreement"]) == 2  # steps of a plan
    assert (
        set(found["plans"]["kind"]) == {"random", "planner"}
        and len(found["plans"]["real"]) == 2 * 5
    )
    for words in (
        "lower is better",
        "higher is better",
        "exploitation",
        "action sensitivity",
        "no measured episode",
    ):
        assert words in out
    with Image.open(run_dir / "eval" / "model.png") as page:
        assert page.size == (1600, 1400)
    assert found["policies"]["steps"] == 5 and found["policies"]["starts"] == 2
    assert {"planner", "random", "always nothing"} < found["policies"]["by_policy"].keys()
    assert "of 8 policies over 5 steps: rank correlation" in out
    assert "policies were run from 2 starts" in out and "plans were tried from 2 starts" in out
    assert "measuring" in err and "playing" in err


def test_the_same_seed_measures_the_same(run_dir):
    first = evaluate(run_dir, "model", *FEWEST, "--seed", "4")[0]
    numbers = result(run_dir)
    assert (
        evaluate(run_dir, "model", *FEWEST, "--seed", "4")[0] == first
        and result(run_dir) == numbers
    )
    evaluate(run_dir, "model", *FEWEST, "--seed", "5")
    assert result(run_dir)["mse"] != numbers["mse"]


def test_an_actors_plans_are_measured_too(tmp_path):
    short = ("--run.frames", "40", "--log.eval", "0")
    train(tmp_path, "--behavior.name", "actor_critic", "--imag.starts", "8", *short)
    run = seed_dir(tmp_path)
    out, _ = evaluate(run, "model", *FEWEST, "--planner.horizon", "3")
    assert set(result(run)["plans"]["by_kind"]) == {"random", "actor", "planner"}
    assert "actions never changed the pictures" in out and "optimism on actor plans" in out


def test_from_the_replay_there_is_no_simulator(run_dir):
    out, _ = evaluate(run_dir, "model", "--from", "replay", "--episodes", "2")
    found = result(run_dir)
    assert found["source"] == "replay" and found["episodes"] == 2
    assert "plans" not in found and "sensitivity" not in found and "probe" not in found
    assert "no simulator:" in out and "which it was trained on" in out


def test_episodes_of_another_run(run_dir, tmp_path, monkeypatch, capsys):
    """By its directory; it must have been trained on the same shapes and actions."""
    other = tmp_path / "other" / "seed7"
    shutil.copytree(run_dir, other, ignore=shutil.ignore_patterns("eval"))
    out, _ = evaluate(run_dir, "model", "--from", other, "--episodes", "2", "--length", "4")
    assert (
        f"2 episodes of the replay of {other}, trained on pointmass" in out
        and "no simulator:" in out
    )
    found, shown = result(run_dir), capsys.readouterr
    assert (
        found["source"] == str(other)
        and found["episodes"] == 2
        and "plans" not in found
        and len(found["kl"]["mean"])
    )
    monkeypatch.syspath_prepend(ROOT)
    state_of = held_out_episodes.store.read_all_states

    def of_another(change):
        monkeypatch.setattr(
            held_out_episodes.store,
            "read_all_states",
            lambda path: [{**state_of(path)[-1], **change}],
        )
        return mistaken(run_dir, "model", "--from", other)

    code, line = of_another({"action": {"size": 3, "groups": [3], "scalar": True}})
    assert code == 2 and line.endswith(
        "its actions are 3 choices, this run does 2 numbers; give a run of the same task"
    )
    code, line = of_another({"observation": {"image": [64, 64, 3], "vector": None}})
    assert (
        code == 2
        and "its image has shape (64, 64, 3), this run sees (32, 32, 3)" in line
        and "\n" not in line
    )
    monkeypatch.undo()
    monkeypatch.syspath_prepend(ROOT)
    (tmp_path / "empty").mkdir()
    code, line = mistaken(run_dir, "model", "--from", tmp_path / "empty")
    assert code == 4 and "is not a run directory" in line
    assert (
        mistaken(run_dir, "model", "--from", "nowhere")[0] == 2 and "this is none" in shown().err
    )
    assert (
        mistaken(run_dir, "imagine", "--from", other)[0] == 2 and "fresh or replay" in shown().err
    )


def test_one_start_gives_no_interval(run_dir):
    out, _ = evaluate(
        run_dir, "model", *QUICK, "--episodes", "2", "--starts", "1", "--length", "3"
    )
    found = result(run_dir)
    assert found["plans"]["by_kind"]["planner"]["gap_low"] is None is found["policies"]["gap_high"]
    assert (
        "plans were tried from one start (--starts): no intervals" in out
        and " to " not in out.split("minus real")[1]
    )
    assert "policies were run from one start" in out
    quick = (*QUICK, "--starts", "1", "--follow", "0", "--length", "3")
    assert "policies are not run" in evaluate(run_dir, "model", *quick)[
        0
    ] and "policies" not in result(run_dir)


def test_a_run_whose_environment_is_not_here_falls_back_on_its_replay(run_dir, tmp_path):
    run = tmp_path / "moved"
    shutil.copytree(run_dir, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("task: pointmass", "task: not_a_module:Env"))
    out, _ = evaluate(run, "model", "--episodes", "2")
    assert sum("can't be made here" in line for line in out.splitlines()) == 1
    assert result(run)["source"] == "replay"
    shutil.rmtree(run / "replay")
    assert "replay of this run cannot be read" in evaluate(run, "model", expect=4)[1]


def test_a_run_that_sees_no_pictures(tmp_path):
    train(tmp_path, "--env.task", "pendulum", "--env.obs", "state", "--run.frames", "40", *BRIEF)
    run = seed_dir(tmp_path, "pendulum")
    out, _ = evaluate(run, "model", *FEWEST, "--episodes", "3")
    found = result(run)
    assert "cannot draw" in out and "mse" not in found and "sensitivity" not in found
    assert "plans" in found and "probe" in found


def test_a_run_whose_transitions_are_an_ensemble(tmp_path):
    members = ("--ensemble.of", "dynamics", "--ensemble.size", "3")
    train(tmp_path, "--env.task", "pointmass", "--run.frames", "60", *members, *BRIEF)
    run = seed_dir(tmp_path, "pointmass")
    evaluate(run, "model", *FEWEST, "--planner.pessimism", "1")
    found = result(run)
    assert found["kl"]["model"][0] > 0 and "planner" in found["plans"]["by_kind"]


def test_a_run_with_discrete_actions_and_ends(tmp_path):
    train(tmp_path, "--env.task", "catcher", "--run.frames", "60", "--log.eval", "0")
    run = seed_dir(tmp_path, "catcher")
    out, _ = evaluate(run, "model", *FEWEST, "--planner.horizon", "6")
    found = result(run)
    assert found["continuation"]["ends_seen"] > 0 and "no measured episode" not in out
    assert "planner" in found["plans"]["by_kind"]


def test_returns_by_rewards_that_were_not_learnt_are_left_out(tmp_path):
    untrained = ("--loss.reward", "0", "--behavior.name", "random", "--log.eval", "0")
    train(tmp_path, "--env.task", "pointmass", "--run.frames", "40", *untrained)
    run = seed_dir(tmp_path, "pointmass")
    out, _ = evaluate(run, "model", *FEWEST)
    assert "left out: rewards were not learnt (loss.reward 0)" in out
    assert not {"plans", "policies"} & set(result(run))


def test_a_planner_that_lacks_its_actor_is_left_out(run_dir):
    assert (
        "trained no actor"
        in evaluate(run_dir, "model", "--planner.score", "reward+value", expect=2)[1]
    )
    random = ("--behavior.name", "random", "--planner.proposals", "3")
    out, _ = evaluate(run_dir, "model", *QUICK, *random)
    assert "no planner is measured" in out and "planner" not in result(run_dir)["plans"]["by_kind"]


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--plans", "3"], "give at least 4"),
        (["--plans", "0"], "not at least 1"),
        (["--starts", "none"], "--starts"),
        (["--from", "nowhere"], "this is none"),
        (["--follow", "-1"], "not at least 0"),
        (["--context", "40", "--episodes", "1"], "the longest episode has 16 rows"),
        (["--model.deter", "9"], "only keys of behavior"),
    ],
)
def test_impossible_options(run_dir, args, wanted):
    assert wanted in evaluate(run_dir, "model", *args, expect=2)[1]


def test_no_run_and_damaged_checkpoints(run_dir, tmp_path):
    assert "is not a run directory" in evaluate(tmp_path, "model", expect=4)[1]
    run = tmp_path / "damaged"
    shutil.copytree(run_dir, run)
    for weights in (run / "checkpoints").glob("*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-9])
    err = evaluate(run, "model", expect=4)[1]
    assert "checkpoint" in err


def test_an_evaluated_run_imagines_as_the_agent_does(tmp_path):
    """With a deterministic latent: the same pictures and rewards as in open-loop imagination."""
    train(
        tmp_path,
        "--model.latent",
        "deterministic",
        "--run.precision",
        "fp32",
        "--run.frames",
        "40",
        "--log.eval",
        "0",
    )
    run = worldmodel.load(seed_dir(tmp_path))
    [episode] = load_replay_episodes(run.path, 1)
    rows = [{k: v[t] for k, v in episode.columns.items()} for t in range(len(episode))]
    wanted = imagine_open_loop(run.agent, rows, 4, torch.Generator())
    model = EvaluatedAgent(run.agent, 0)
    post, prior = model.observe(episode.columns)
    ahead = torch.from_numpy(episode.columns["prev_action"][4:])[None]
    found = model.imagine({k: v[3:4] for k, v in post.items()}, ahead)
    np.testing.assert_allclose(model.reward(found)[0], wanted.predicted_reward[4:], atol=1e-5)
    np.testing.assert_allclose(model.decode(found)[0] * 255, wanted.model[4:], atol=0.51)
    assert (model.kl(post, post) == 0).all() and (model.kl(post, prior) > 0).all()
    assert model.feat(found).shape == (1, len(ahead[0]), run.model.dynamics.feature_size)


def test_plans_are_imagined_with_the_same_draws(run_dir):
    """Equal plans give equal rollouts, although the latent is sampled."""
    run = worldmodel.load(run_dir)
    [episode] = load_replay_episodes(run.path, 1)
    model = EvaluatedAgent(run.agent, 0)
    state = {k: v[5:6] for k, v in model.observe(episode.columns)[0].items()}
    plan = torch.full((1, 4, 2), 0.5)
    returns, pictures = imagine_plans(
        model, state, torch.cat([plan, plan, -plan]), np.ones((3, 4), bool)
    )
    assert (
        returns[0] == returns[1]
        and torch.equal(pictures[0], pictures[1])
        and not torch.equal(*pictures[1:])
    )
    draws = [run.model.dynamics.features(model.imagine(state, plan)) for _ in range(2)]
    assert not torch.equal(*draws)


def test_a_behavior_takes_the_first_action_of_its_plan(run_dir):
    run = worldmodel.load(run_dir)
    state, generator = run.model.dynamics.initial(2), torch.Generator()
    begin, fresh = run.agent.behavior.init(2), torch.ones(2, dtype=torch.bool)
    action, _ = run.agent.behavior.act(state, begin, fresh, "eval", generator.manual_seed(1))
    plan = run.agent.behavior.plan(state, begin, fresh, generator.manual_seed(1))
    assert plan.shape == (2, 2, 2) and torch.equal(action, plan[:, 0])
