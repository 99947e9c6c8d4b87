"""Imagined rollouts of perfect and of frozen models, and the files that eval.py imagine writes."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from worldmodel.envs.parallel.vector import SerialEnv

import worldmodel
from runs import ROOT, evaluate, mistaken, seed_dir, train
from tiny_world import SPACE, Frozen, Grid, Perfect, Shuffled, wander
from worldmodel.config import loading
from worldmodel.evaluation.imagination import (
    episode_source,
    futures,
    latent_traversal,
    long_rollouts,
    uncertainty,
)
from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.plotting import grids, media
from worldmodel.evaluation.quality import policies
from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.held_out_episodes import collect_episodes, load_replay_episodes
from worldmodel.evaluation.quality.open_loop_error import MeanBaseline
from worldmodel.evaluation.quality.run_policies import make_behaviors
from worldmodel.evaluation.quality.useful_horizon import find_useful_horizon
from worldmodel.rollout.collector import Rollout, make_episode_seeds
from worldmodel.spaces import ActionSpace

CONTEXT = 3
CONFIG = SimpleNamespace(
    replay=SimpleNamespace(length=8),
    loss=SimpleNamespace(overshooting=1),
    imag=SimpleNamespace(horizon=5),
)


def seen_by(model):
    """The longest of some of the grid's episodes, as a model sees it."""
    with SerialEnv(Grid, 1) as envs:
        rollout = Rollout(envs, SPACE, make_episode_seeds(1))
        episodes = collect_episodes(rollout, wander(), 6, lambda done: None)
    episode = max(episodes, key=len)
    posterior, _ = model.observe(episode.columns)
    return ObservedEpisode(
        model,
        episode,
        posterior,
        "fresh",
        CONTEXT,
        MeanBaseline.fit(episodes).picture,
        "",
    )


def test_a_perfect_model_has_an_unlimited_horizon_and_no_disagreement():
    observed = seen_by(Perfect())
    found = long_rollouts.measure_long_rollouts(observed, CONFIG, 8, 2)
    assert (
        (found["mse"]["model"] == 0).all()
        and (found["kl"]["model"] == 0).all()
        and found["breaks"] is None
    )
    assert (
        found["behind_copy"] is None and (found["mse"]["mean"] > 0).all() and found["length"] == 8
    )
    assert "is beyond 8 steps" in long_rollouts.describe_rollouts(found)
    parts = uncertainty.measure_disagreement(observed, 6, 4)
    assert (
        (parts["std"] == 0).all()
        and (parts["error"] == 0).all()
        and np.array_equal(parts["mean"], parts["truth"])
    )


def test_a_frozen_model_equals_the_last_frame_and_has_no_useful_horizon():
    found = long_rollouts.measure_long_rollouts(seen_by(Frozen()), CONFIG, 8, 2)
    np.testing.assert_array_equal(found["mse"]["model"], found["mse"]["copy"])
    np.testing.assert_array_equal(found["mse"]["model"], found["mse"]["single"])
    assert found["behind_copy"] == 1 == found["kl_behind_copy"]


def test_rollouts_of_random_actions_disagree_where_they_are_wrong():
    parts = uncertainty.measure_disagreement(seen_by(Shuffled()), 6, 16)
    found = uncertainty.summarize_disagreement(parts)
    assert (
        (found["std"] > 0).all()
        and found["std"][5] > found["std"][0]
        and found["correlation_pooled"] > 0.3
    )


def test_a_horizon_needs_several_steps_in_a_row():
    assert find_useful_horizon([1, 3, 1, 3, 3, 3, 1], [2] * 7) == 4
    assert find_useful_horizon([1, 3, 3], [2] * 3) is None
    assert find_useful_horizon([2, 2, 2], [2] * 3) == 1


def test_the_longest_rollouts_leave_room_for_other_starts():
    observed = SimpleNamespace(episode=range(30), context=10)
    assert [long_rollouts.choose_length(observed, wanted) for wanted in (None, 7, 99)] == [
        10,
        7,
        20,
    ]


def test_constant_actions():
    names, actions = zip(*policies.list_constant_actions(ActionSpace(2)), strict=True)
    assert names[:3] == ("nothing", "dimension 0 at -1", "dimension 0 at +1") and len(names) == 5
    assert np.array_equal(actions[4], [0, 1])
    names, actions = zip(*policies.list_constant_actions(ActionSpace(5, (3, 2))), strict=True)
    assert (
        len(names) == 5
        and np.array_equal(actions[1], [0, 1, 0, 1, 0])
        and np.array_equal(actions[4], [1, 0, 0, 0, 1])
    )
    assert len(policies.list_constant_actions(ActionSpace(20))) == policies.MAX_ACTIONS


def test_grids_show_every_picture_in_its_place():
    one, two = np.full((5, 8, 8, 3), 40, np.uint8), np.full((3, 8, 8, 3), 90, np.uint8)
    moving = grids.tile_videos([("one", one), ("two", two), ("three", one)], 2, 16)
    side = 16 + grids.GAP
    assert moving.shape == (5, 2 * (grids.BAND_HEIGHT + side), 2 * side, 3)
    assert (moving[:, grids.BAND_HEIGHT + 3, 3] == 40).all() and (
        moving[:, grids.BAND_HEIGHT + 3, side + 3] == 90
    ).all()
    assert (moving[0, -side:, side:] == 255).all()
    still = grids.stack_strips([("one", one), ("two", two)], 4, 8)
    assert (still[grids.BAND_HEIGHT + 1, 1] == 40).all() and still.shape[0] == 2 * (
        grids.BAND_HEIGHT + side - 8
    )
    assert (still[:, -1] != 90).all()  # three pictures, not four


@pytest.fixture(scope="module")
def blind_dir(tmp_path_factory):
    """A run without decoding objective and actor: the probe decodes pictures."""
    root = tmp_path_factory.mktemp("imagined")
    train(
        root,
        "--env.task",
        "pointmass",
        "--env.time_limit",
        "15",
        "--run.frames",
        "60",
        "--model.latent",
        "categorical",
        "--loss.objective",
        "{contrastive: 1.0}",
    )
    return seed_dir(root, "pointmass")


def read(run, name):
    return json.loads((run / "eval" / f"{name}.json").read_text())


def test_all_files_of_a_model_without_a_decoder(blind_dir):
    options = ("--length", "6", "--samples", "3", "--long", "7")
    out, err = evaluate(blind_dir, "imagine", *options, figures=True)
    eval_dir = blind_dir / "eval"
    assert len(read(blind_dir, "imagine")["image_mse"]) == 6
    found = read(blind_dir, "futures")
    kinds = [future["kind"] for future in found["futures"]]
    assert kinds == ["sample"] * 3 + ["action"] * 5 + ["policy"] * 2 and all(
        len(future["reward"]) == 6 == len(future["continuation"]) for future in found["futures"]
    )
    assert "the actor cannot act" in out and any("the actor" in line for line in found["left_out"])
    long = read(blind_dir, "long")
    assert (
        long["length"] == 7 == len(long["mse"]["mean"])
        and "episodes" in long["mean_of"]
        and long["samples"] == 3
    )
    effect = read(blind_dir, "latents")["traversal"]["effect"]
    assert len(effect) == 6 and max(effect) > 0
    spread = read(blind_dir, "uncertainty")
    assert (
        len(spread["std"]) == 6
        and spread["std"][0] > 0
        and -1 <= spread["correlation_pooled"] <= 1
    )
    for name in ("imagine", "futures", "uncertainty"):
        with (
            Image.open(eval_dir / f"{name}.gif") as gif,
            Image.open(eval_dir / f"{name}.webp") as webp,
        ):
            assert gif.size == webp.size and webp.n_frames >= 6
    for name in ("imagine", "futures", "long", "latents", "uncertainty"):
        with Image.open(eval_dir / f"{name}.png") as picture:
            assert min(picture.size) > 100
    assert "imagining [" in err and "playing" in err
    assert ("no MP4" in out) == (media.find_encoder() is None)


def test_samples_differ_by_seed_and_a_traversal_changes_one_group(blind_dir):
    run = worldmodel.load(blind_dir)
    [episode] = load_replay_episodes(run.path, 1)
    model = EvaluatedAgent(run.agent, 0)
    picture = MeanBaseline.fit([episode]).picture
    observed = ObservedEpisode(
        model, episode, model.observe(episode.columns)[0], "replay", 4, picture, ""
    )
    behaviors, _ = make_behaviors(run)
    one, two, again = (
        futures.imagine_futures(observed, behaviors, 5, 2)[i].pictures for i in (0, 1, 0)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, two)
    here = {k: v[3:4] for k, v in observed.posteriors.items()}
    stoch, _ = latent_traversal._vary_classes(here, observed.posteriors)
    best = stoch.mode(0).values.mode(0).values
    assert stoch.shape == (6, 5, 6, 5) and (stoch.sum(-1) == 1).all()
    for g in range(6):
        others = [i for i in range(6) if i != g]
        assert torch.equal(stoch[g][:, others], best[others].expand(5, 5, 5))
        assert torch.equal(stoch[g, :, g].sum(0), torch.ones(5))  # every class once
    pictures = latent_traversal.interpolate_states(observed)[0][1]
    assert len(pictures) == latent_traversal.BETWEEN + 2 and np.array_equal(
        pictures[0], observed.true_pictures(3)
    )


@pytest.fixture
def moved(blind_dir, tmp_path):
    """A run whose environment is not here."""
    run = tmp_path / "moved"
    shutil.copytree(blind_dir, run, ignore=shutil.ignore_patterns("eval"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("task: pointmass", "task: not_a_module:Env"))
    return run


def test_where_the_environment_cannot_be_made(moved, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    out, _ = evaluate(moved, "imagine", "--length", "4", "--samples", "2")
    assert sum("can't be made here" in line for line in out.splitlines()) == 1
    assert read(moved, "imagine")["source"] == "replay" and (moved / "eval" / "long.png").exists()
    for what in ("returns", "compare", "probe"):
        code, line = mistaken(moved, what)
        assert (
            code == 3
            and line.startswith("the environment can't be made here (")
            and "\n" not in line
        )
    shutil.rmtree(moved / "replay")
    code, line = mistaken(moved, "imagine")
    assert code == 4 and "replay of this run cannot be read" in line


def test_a_run_of_an_older_format(moved, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace("transition: rssm", "cell: gru"))
    for what in ("returns", "imagine", "compare", "probe", "model", "play", "report"):
        code, line = mistaken(moved, what)
        assert code == 4 and "does not fit this version" in line and "\n" not in line


def test_a_model_that_cannot_draw_says_so(monkeypatch):
    monkeypatch.setattr(
        episode_source, "EvaluatedAgent", lambda agent, seed: SimpleNamespace(can_draw=False)
    )
    run = SimpleNamespace(agent=None, config=loading.parse(["debug"]))
    with pytest.raises(ValueError, match="this model cannot draw: train it on pictures"):
        episode_source.observe_episode(run, None, "fresh", 0, 5)
