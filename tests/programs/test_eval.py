"""Saved runs: returns with an interval, rollouts beside the truth, three lines of Python."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import worldmodel
from runs import ROOT, evaluate, mistaken, seed_dir, train
from worldmodel.rollout.collector import Rollout, make_episode_seeds
from worldmodel.rollout.evaluation_episodes import run_episodes
from worldmodel.rollout.statistics import bootstrap_interval
from worldmodel.spaces import ActionSpace


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluated")
    train(root, "--run.frames", "60")
    return seed_dir(root)


def test_returns_writes_scores_and_a_video(run_dir):
    out, _ = evaluate(run_dir, "--episodes", "3", "--envs", "2")
    result = json.loads((run_dir / "eval" / "returns.json").read_text())
    assert len(result["scores"]) == 3 and result["eval/score"] == np.mean(result["scores"])
    assert result["eval/score_low"] <= result["eval/score"] <= result["eval/score_high"]
    assert "higher is better" in out
    for name in ("best", "median", "worst"):
        with Image.open(run_dir / "eval" / f"{name}.gif") as video:
            # The counter's first row and its 20 steps, at 20 pictures a second; equal pictures are
            # merged.
            assert (
                sum(frame.info["duration"] for frame in ImageSequence.Iterator(video)) == 21 * 50
            )
    assert result["places"] == {"best": 0, "median": 1, "worst": 0} and result["envs"] == 2
    assert result["eval/iqm"] == 210.0 and "IQM" in out


def test_returns_are_the_same_for_the_same_seed_and_in_a_python_of_their_own(run_dir):
    same = ("--episodes", "2", "--seed", "5", "--envs", "1")
    first = evaluate(run_dir, *same)[0]
    assert evaluate(run_dir, *same)[0] == first
    alone = [sys.executable, ROOT / "eval.py", run_dir, *same]
    assert subprocess.run(alone, capture_output=True, text=True, check=True).stdout == first


def test_imagine_shows_context_then_the_model_alone(run_dir):
    evaluate(run_dir, "imagine", "--context", "4", "--length", "9")
    result = json.loads((run_dir / "eval" / "imagine.json").read_text())
    assert len(result["image_mse"]) == 9 == len(result["image_mse_copy_last"])
    assert len(result["reward"]) == 13 == len(result["predicted_reward"])
    with Image.open(run_dir / "eval" / "imagine.gif") as video:
        assert video.n_frames == 13


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (["nowhere"], 4, "is not a run directory"),
        (["nowhere", "imagin"], 2, "invalid choice"),
        (["nowhere", "--episodes", "0"], 2, "not at least 1"),
        (["nowhere", "--episodes", "ten"], 2, "--episodes"),
    ],
)
def test_a_users_mistakes(args, code, wanted):
    assert wanted in evaluate(*args, expect=code)[1]


@pytest.fixture(scope="module")
def acting_dir(tmp_path_factory):
    """A run that trained an actor and a critic."""
    root = tmp_path_factory.mktemp("acting")
    train(root, "--behavior.name", "actor_critic", "--run.frames", "40", "--imag.starts", "8")
    return seed_dir(root)


def test_compare_drives_one_model_in_every_way(acting_dir):
    small = ("--planner.candidates", "20", "--planner.elites=4", "--budgets", "0.5,1,2")
    out, err = evaluate(acting_dir, "compare", "--episodes", "1", *small, figures=True)
    result = json.loads((acting_dir / "eval" / "compare.json").read_text())
    planners = (
        "shooting",
        "cem",
        "icem",
        "mppi",
        "gradient",
        "cem, critic",
        "cem, actor",
        "cem, actor and critic",
        "mppi, actor and critic",
    )
    names = {
        "random",
        "actor",
        "ilqr",
        *(f"{way}, {count}" for way in planners for count in (10, 20, 40)),
    }
    assert result["drivers"].keys() == names and result["planner"]["candidates"] == 20
    for name, found in result["drivers"].items():
        assert (
            name in out
            and " to " not in out.split("\none episode per driver (--episodes): no intervals")[0]
        )
        assert len(found["scores"]) == 1 and found["ms_per_action"] > 0
        assert found["candidates"] == (int(name.split()[-1]) if found["way"] != name else None)
    slow, fast = (result["drivers"][name]["ms_per_action"] for name in ("cem, 20", "random"))
    assert slow > fast and result["left_out"] == [] and "compare [" in err
    with Image.open(acting_dir / "eval" / "compare.png") as picture:
        assert picture.size == (850, 500)


def test_compare_without_an_actor_says_what_is_missing(run_dir):
    few = ("--episodes", "1", "--budgets", "1")
    out, _ = evaluate(run_dir, "compare", *few)
    for name in (
        "actor",
        "cem, critic",
        "cem, actor",
        "cem, actor and critic",
        "mppi, actor and critic",
    ):
        assert f"left out: {name}; this run has no actor" in out
    found = json.loads((run_dir / "eval" / "compare.json").read_text())
    assert len(found["left_out"]) == 5
    assert found["drivers"].keys() == {
        "random",
        "ilqr",
        *(f"{way}, 16" for way in ("shooting", "cem", "icem", "mppi", "gradient")),
    }
    evaluate(run_dir, "compare", *few, "--drivers", "cem; random")
    assert json.loads((run_dir / "eval" / "compare.json").read_text())["drivers"].keys() == {
        "cem, 16",
        "random",
    }


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--drivers", "cem,actor"], "'cem,actor' is not one of"),
        (["--drivers", "actor"], "--drivers: left out: actor; this run has no actor"),
        (["--budgets", "0,1"], "no list of shares"),
        (["--budgets", "few"], "--budgets"),
    ],
)
def test_impossible_comparisons(run_dir, args, wanted, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)
    code, line = mistaken(run_dir, "compare", *args)
    assert code == 2 and wanted in line + capsys.readouterr().err


def test_one_checkpoint_acts_as_actor_as_planner_and_as_both(acting_dir):
    run = worldmodel.load(acting_dir)
    picture = np.full((32, 32, 3), 7, np.uint8)
    planner = [("behavior.name", "mpc")]
    for changes in (
        [],
        planner,
        [*planner, ("planner.score", "reward+value"), ("planner.proposals", "5")],
    ):
        driven = run.apply_overrides(changes)
        action, _ = driven.act(picture)
        assert action.shape == (1,) and driven.model is run.model and driven.policy is run.policy


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--behavior.name", "actor_critic"], "this run trained no actor"),
        (["--planner.score=reward+value"], "this run trained no actor"),
        (["--model.deter", "9"], "model.deter: only keys of behavior, planner, goal"),
        (["--planner.elite", "9"], "did you mean planner.elites"),
        (["--planer.horizon", "9"], "did you mean planner.horizon?"),
        (["--planner.elites"], "--planner.elites needs a value"),
        (["--planner.elites", "5000"], "is more than planner.candidates"),
    ],
)
def test_a_run_can_only_be_driven_by_what_it_learned(run_dir, args, wanted):
    assert wanted in evaluate(run_dir, *args, expect=2)[1]


def test_a_saved_run_with_discrete_actions(tmp_path):
    train(tmp_path, "--env.task", "catcher", "--env.time_limit", "30", "--run.frames", "40")
    evaluate(seed_dir(tmp_path, "catcher"), "--episodes", "2")


def test_an_episode_shorter_than_the_context(run_dir):
    assert "--context" in evaluate(run_dir, "imagine", "--context", "30", expect=2)[1]


def test_a_parent_directory_names_the_runs_below_it(run_dir):
    assert str(run_dir) in evaluate(run_dir.parent, expect=4)[1]


def test_the_readme_s_python_runs(run_dir):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(re.sub(r'load\(".*?"\)', f"load({str(run_dir)!r})", code), names)  # noqa: S102
    assert (
        names["frames"].shape == (10, 32, 32, 3) and names["picture"].shape == names["obs"].shape
    )
    names["env"].close()
    names["dream"].reset(seed=0)


def test_three_lines_of_python(run_dir):
    run = worldmodel.load(run_dir)
    picture = np.full((32, 32, 3), 7, np.uint8)
    with pytest.raises(ValueError, match="uint8.*float64"):
        run.act(picture / 255)
    action, carry = run.act(picture, None)
    again, carry = run.act({"image": picture}, carry)
    assert action.shape == (1,) and np.abs(action).max() <= 1
    frames = run.imagine(carry, np.zeros((6, 1)))
    assert frames.shape == (6, 32, 32, 3) and frames.dtype == np.uint8
    for odd in ((6, 2), (6,), (1, 6, 1)):
        with pytest.raises(ValueError, match=r"\(steps, 1\)"):
            run.imagine(carry, np.zeros(odd))
    drawn = run.draw(carry)
    assert drawn.shape == (32, 32, 3) and drawn.dtype == np.uint8


def test_loading_gives_the_weights_that_were_saved(run_dir):
    from safetensors.torch import load_file

    run = worldmodel.load(run_dir)
    saved = load_file(max((run_dir / "checkpoints").glob("[0-9]*")) / "model.safetensors")
    assert saved.keys() == run.model.state_dict().keys()
    assert all(torch.equal(v, saved[k]) for k, v in run.model.state_dict().items())


def test_the_interval_covers_the_mean_of_known_scores_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(3, 2, 30), trial, draws=500)
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_episodes_are_shared_evenly_among_environments():
    from worldmodel.envs.parallel.vector import SerialEnv

    from worldmodel import envs

    with SerialEnv(lambda: envs.make("counter", size=(16, 16)), 2) as vector:
        rollout = Rollout(vector, ActionSpace(1), make_episode_seeds(3))
        result = run_episodes(rollout, lambda rows: np.zeros((2, 1)), 5)
    assert result.scores == [210.0] * 5 and result.lengths == [20] * 5
