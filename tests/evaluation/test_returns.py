"""Returns: statistics as in rliable, parallel episodes, successes, videos, aggregates of seeds."""

import json
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from worldmodel.envs.parallel.vector import SerialEnv

from runs import ROOT, evaluate, mistaken, seed_dir, train
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.returns import seed_statistics
from worldmodel.rollout.collector import Rollout, make_episode_seeds
from worldmodel.rollout.evaluation_episodes import CompressedVideo, Evaluation, run_episodes
from worldmodel.rollout.statistics import (
    AGGREGATES,
    compute_iqm,
    compute_profile,
    estimate_aggregates,
)
from worldmodel.spaces import ActionSpace

# Written by rliable_numbers.py with the package rliable, which is not a dependency.
RLIABLE = json.loads((Path(__file__).parents[1] / "support" / "rliable.json").read_text())


@pytest.mark.parametrize("case", RLIABLE.values(), ids=RLIABLE)
def test_aggregates_and_intervals_are_rliables(case):
    scores = np.array(case["scores"])
    found = estimate_aggregates(list(scores.T), draws=20_000)
    room = 0.02 * np.ptp(scores)  # both are random estimates
    for name, value, low, high in zip(
        AGGREGATES, case["point"], case["low"], case["high"], strict=True
    ):
        assert found[name]["value"] == pytest.approx(value, rel=1e-6)
        assert found[name]["low"] == pytest.approx(low, abs=room)
        assert found[name]["high"] == pytest.approx(high, abs=room)


@pytest.mark.parametrize("case", RLIABLE.values(), ids=RLIABLE)
def test_profiles_are_rliables(case):
    scores = np.array(case["scores"])
    found = compute_profile(list(scores.T), np.array(case["taus"]), draws=10_000)
    np.testing.assert_allclose(found["share"], case["profile"], atol=1e-6)
    step = 1.01 / scores.size  # percentiles of shares fall on one run or on the next
    np.testing.assert_allclose(found["low"], case["profile_low"], atol=step)
    np.testing.assert_allclose(found["high"], case["profile_high"], atol=step)


def test_the_interquartile_mean_by_hand_and_tasks_with_unequal_numbers_of_runs():
    assert compute_iqm([np.array([0.0, 1, 2, 3, 4, 5, 6, 700])]) == 3.5
    assert compute_iqm([np.array([1.0, 2, 300])]) == pytest.approx(
        101
    )  # a quarter of three is no run
    two = [np.array([0.0, 10]), np.array([100.0])]
    assert AGGREGATES["mean"](two) == 52.5 and AGGREGATES["median"](two) == 52.5


class Goal(gymnasium.Env):
    """Four steps with reward seed modulo 7; an episode succeeds if that is even."""

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.worth, self.count = seed % 7, 0
        return np.full((16, 16, 3), self.worth, np.uint8), {}

    def step(self, action):
        self.count += 1
        info = {"is_success": self.count == 3 and self.worth % 2 == 0}
        return (
            np.full((16, 16, 3), self.worth, np.uint8),
            float(self.worth),
            False,
            self.count == 4,
            info,
        )


def play_episodes(count, episodes=5):
    seeds_of = make_episode_seeds(3)
    with SerialEnv(Goal, count) as envs:
        rollout = Rollout(
            envs, ActionSpace(1), lambda env, number: seeds_of(0, number * count + env)
        )
        return run_episodes(rollout, lambda rows: np.zeros((count, 1)), episodes, keep_videos=True)


def test_episodes_do_not_depend_on_the_number_of_environments():
    one, three = play_episodes(1), play_episodes(3)
    assert one.scores == three.scores and one.lengths == [4] * 5 and len(set(one.scores)) > 1
    assert [video.pictures()[0, 0, 0, 0] * 4 for video in three.videos] == three.scores
    assert all(video.pictures().shape == (5, 16, 16, 3) for video in three.videos)


def test_a_success_at_any_step_counts():
    result = play_episodes(2)
    assert result.successes == [score / 4 % 2 == 0 for score in result.scores]
    summary = result.summarize()
    assert summary["eval/success"] == np.mean(result.successes)
    assert (
        0
        <= summary["eval/success_low"]
        <= summary["eval/success"]
        <= summary["eval/success_high"]
        <= 1
    )
    assert "eval/success" not in Evaluation([1.0], [3], [], [None]).summarize()


def test_best_median_and_worst():
    assert Evaluation([3.0, 9, 1, 5], [1] * 4, []).pick_episodes() == {
        "best": 1,
        "median": 0,
        "worst": 2,
    }
    assert Evaluation([2.0, 2], [1] * 2, []).pick_episodes() == {
        "best": 0,
        "median": 0,
        "worst": 0,
    }
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert np.array_equal(
        CompressedVideo.compress([{"image": p} for p in pictures]).pictures(), pictures
    )
    assert CompressedVideo.compress([{"vector": np.zeros(3, np.float32)}]) is None


def test_videos_in_every_available_format(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    monkeypatch.setattr(media, "find_encoder", lambda: None)
    assert [path.suffix for path in media.save_video(tmp_path / "a", frames)] == [".gif", ".webp"]
    for kind in ("gif", "webp"):
        with Image.open(tmp_path / f"a.{kind}") as video:
            assert video.n_frames == 4 and video.size == (192, 192)
    program = tmp_path / "ffmpeg"  # takes the pictures and keeps them
    program.write_text('#!/bin/sh\nfor last; do :; done\ncat > "$last"\n')
    program.chmod(0o755)
    monkeypatch.setattr(media, "find_encoder", lambda: str(program))
    assert media.save_video(tmp_path / "b", frames)[2].stat().st_size == 4 * 192 * 192 * 3


def test_a_failing_encoder_costs_only_the_mp4(tmp_path, monkeypatch, caplog):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\ncat > /dev/null\necho no codec >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(media, "find_encoder", lambda: str(program))
    assert len(media.save_video(tmp_path / "c", np.zeros((2, 16, 16, 3), np.uint8))) == 2
    assert (
        "c.mp4 could not be encoded: no codec" in caplog.text and not (tmp_path / "c.mp4").exists()
    )


def make_result(task, name, *scores):
    return {
        "run": f"{task}/{name}",
        "task": task,
        "name": name,
        "frames": 5,
        "scores": list(scores),
        "eval/score": float(np.mean(scores)),
    }


def test_tasks_are_pooled_if_returns_have_a_common_scale(tmp_path, capsys):
    both = [
        make_result(task, name, worth, worth + 2)
        for task in ("dmc:a_b", "dmc:c_d")
        for name, worth in (("one", 100), ("one", 200), ("two", 400), ("two", 500), ("two", 600))
    ]
    seed_statistics.write_aggregate(both, tmp_path, 0)
    result = json.loads((tmp_path / "seeds.json").read_text())
    assert result["tasks"]["dmc:a_b"]["one"]["mean"]["value"] == 151
    assert result["together"]["two"]["runs"] == [[401, 501, 601]] * 2
    assert result["together"]["two"]["iqm"]["low"] >= 401
    shares = result["together"]["one"]["profile"]["share"]
    assert shares[0] == 1 and shares[-1] == 0 and shares == sorted(shares, reverse=True)
    out = capsys.readouterr().out
    assert (
        out.index("two") < out.index("one  ") and "2 tasks together" in out and "has 2 runs" in out
    )
    with Image.open(tmp_path / "seeds.png") as picture:
        assert picture.size[0] == 1400
    seed_statistics.write_aggregate(
        [make_result("catcher", "one", 1), make_result("pendulum", "one", 100)], tmp_path, 0
    )
    assert "no common scale" in capsys.readouterr().out
    assert "together" not in json.loads((tmp_path / "seeds.json").read_text())


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    train(root, "--run.frames", "40")
    one, two = seed_dir(root), seed_dir(root, seed=1)
    shutil.copytree(one, two)
    return one, two


def test_several_runs_have_an_aggregate(two_seeds):
    out, _ = evaluate(*two_seeds, "--episodes", "2", "--envs", "1", "--seed", "4")
    one, two = (json.loads((path / "eval" / "returns.json").read_text()) for path in two_seeds)
    assert one["scores"] == two["scores"] and one["envs"] == 1
    result = json.loads((two_seeds[0] / "eval" / "seeds.json").read_text())
    assert len(result["runs"]) == 2 and len(result["tasks"]["counter"]["debug"]["runs"][0]) == 2
    assert (
        "an interval over so few is unreliable" in out
        and (two_seeds[0] / "eval" / "seeds.png").exists()
    )
    again, _ = evaluate(*two_seeds, "returns", "--from", "saved")
    assert (
        json.loads((two_seeds[0] / "eval" / "seeds.json").read_text())["tasks"] == result["tasks"]
    )
    assert "IQM" in again and "trained on" not in again


def test_user_errors_with_several_runs(two_seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    one, two = two_seeds
    assert mistaken(one, one) == (
        2,
        "returns: the same run is named twice; its episodes would count twice",
    )
    code, line = mistaken("nowhere/seed9", "nowhere/seed8", "--from", "saved")
    assert code == 4 and "nowhere/seed9 is not a run directory" in line
    for args, wanted in (
        ((one, "--from", "replay"), "fresh or saved"),
        ((one, "model", "--from", "saved"), "or replay"),
    ):
        assert mistaken(*args)[0] == 2 and wanted in capsys.readouterr().err
    bare = tmp_path / "seed0"
    shutil.copytree(two, bare, ignore=shutil.ignore_patterns("eval"))
    code, line = mistaken(bare, "--from", "saved")
    assert code == 4 and "returns.json does not exist" in line
    (bare / "eval").mkdir()
    for text in ("{", '{"scores": []}', "[1]"):
        (bare / "eval" / "returns.json").write_text(text)
        code, line = mistaken(bare, "--from", "saved")
        assert code == 4 and "damaged or of another version" in line
