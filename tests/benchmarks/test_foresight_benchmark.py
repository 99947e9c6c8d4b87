"""Tests of benchmarks/foresight.py: what counts as a success, and what is written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import forked
from benchmarks.foresight import Foresight, Table, make_random_policy, prepare
from runs import seed_dir, train
from worldmodel.errors import UsageError
from worldmodel.saved_run import Run

KEYS = ("--model.dynamics", "pixels", "--loss.objective", "{}", "--env.task", "pushing")
KEYS += ("--pixels.channels", "4", "--pixels.kernels", "2", "--env.size", "[16, 16]")
KEYS += ("--env.time_limit", "8", "--env.repeat", "2", "--behavior.name", "random")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("foresight")
    train(root, *KEYS, "--env.kwargs", "{start_near: true}", "--run.frames", "200")
    return seed_dir(root, "pushing")


def test_who_sees_the_state_succeeds_and_chance_does_not(run_dir):
    for anywhere in (False, True):
        table = Table(Run.open(run_dir), anywhere)
        known = [table.follow_expert(seed) for seed in range(10)]
        chance = [table.play(seed, make_random_policy(seed)) for seed in range(10)]
        assert sum(e.success for e in known) >= 9 and sum(e.success for e in chance) <= 1
        assert [e.gaps[0] for e in known] == [e.gaps[0] for e in chance], "the same episodes"
        assert all(e.gaps[-1] <= 0.08 for e in known if e.success)
        assert all(len(e.gaps) == 51 for e in chance if not e.success), "100 frames of two a step"


def test_the_designated_pixel_is_the_objects(run_dir):
    table = Table(Run.open(run_dir), False)
    picture = table.env.reset(seed=3)[0].astype(float)
    ((row, column),) = table.make_goal(told=False).designated[0].tolist()
    gap = np.abs(picture - table.task.bodies[0].shape.colour).sum(-1)
    assert gap[row, column] < 60 and gap[row, column] < np.median(gap) / 3
    goal = table.find_pixels()[1][0, 0].tolist()
    x, y = table.task.goal
    assert goal == pytest.approx([7.5 - 8 * y, 7.5 + 8 * x], abs=1e-4)


def test_a_goal_moves_the_designated_pixel_as_far_as_the_centre(run_dir):
    table = Table(Run.open(run_dir), False)
    table.env.reset(seed=3)
    here, there = table.find_pixels()
    goal, known = table.make_goal(told=False), table.make_goal(told=True)
    assert (here - here.round()).abs().max() > 0.05
    torch.testing.assert_close(goal.pixels - goal.designated, there - here)
    torch.testing.assert_close(known.pixels, there)


def test_who_is_told_expects_the_centre_itself(run_dir):
    table = Table(Run.open(run_dir), False)
    agent = Foresight(
        prepare(Run.open(run_dir), "pixel_distance", []), table, {3: None}, "pixel-truth"
    )
    table.env.reset(seed=3)
    height, width = table.size
    agent.carry = {"behavior/memory/now": torch.zeros(1, 1, height * width)}
    agent.follow()
    told = agent.carry["behavior/memory/now"].view(height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    expected = torch.stack([(told * rows).sum(), (told * columns).sum()])
    torch.testing.assert_close(expected, table.find_pixels()[0].flatten())
    assert told.sum().item() == pytest.approx(1) and (told > 0).sum() <= 4


def test_lines_and_pictures_of_every_method(run_dir, tmp_path):
    out = tmp_path / "out"
    keys = ("--planner.horizon", "2", "--planner.candidates", "6", "--planner.iterations", "1")
    keys += ("--planner.elites", "2", "--goals", "2", "--out", out)
    forked.run("benchmarks/foresight", run_dir, *keys)
    lines = [json.loads(text) for text in (out / "foresight.jsonl").read_text().splitlines()]
    by = {line["by"]: line for line in lines}
    methods = ["expert", "random", "errors", "replan", "simulator"]
    assert list(by) == [*methods, "pixel", "pixel-truth", "image"]
    assert by["expert"]["success"] == 1 and by["expert"]["goals"] == 2
    replans = [(x["score"], x["precision"]) for x in lines if x["by"] == "replan"]
    assert len(set(replans)) == 4 and all(x["cpu_seconds"] > 0 for x in lines[3:7])
    assert len(by["errors"]["mse"]) == len(by["errors"]["copy_mse"]) == 12
    assert by["pixel"]["tracked_within_pixels"] > 0 and by["image"]["distance"] == "belief"
    for name in ("motion.png", "motion.webp"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100


def test_other_tasks_are_refused(tmp_path):
    train(tmp_path, "--env.task", "pointmass")
    with pytest.raises(UsageError, match="it was not trained on pictures of pushing"):
        Table(Run.open(seed_dir(tmp_path, "pointmass")), False)
