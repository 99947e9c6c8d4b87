"""Tests of benchmarks/reach.py: the measure, the command, and the settings that it refuses."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

import forked
from benchmarks.goal_images import make_expert_policy
from benchmarks.reach import (
    BAR,
    COLUMNS,
    TASKS,
    GoalTask,
    compute_share_interval,
    describe_scene,
    make_random_policy,
    open_runs,
    read_state,
)
from runs import seed_dir, train
from worldmodel import envs
from worldmodel.config import loading


def make_goal_task(task, seed=0):
    suite = {"render": "ray", "repeat": 2} if task.startswith("dmc:") else {}
    make = partial(envs.make, task, size=(24, 24), **suite)
    return GoalTask(make(), make(), *TASKS[task.removeprefix("distract:")], seed)


@pytest.mark.parametrize("task", TASKS)
def test_who_knows_the_goal_reaches_it_and_chance_does_not(task):
    c = make_goal_task(task)
    known = [c.play_episode(n, 40, partial(make_expert_policy, c))[0] for n in range(10)]
    chance = [
        c.play_episode(n, 40, partial(make_random_policy, c, np.random.default_rng(0)))[0]
        for n in range(10)
    ]
    assert [a.gaps[0] for a in known] == [b.gaps[0] for b in chance], (
        "the same episodes to the same goals"
    )
    assert all(
        len(p.gaps) == len(p.pictures) == 41 and p.gaps[0] > 3 * c.within for p in known + chance
    )
    assert np.mean([p.gaps[-1] <= c.within for p in known]) >= 0.8
    assert np.mean([p.gaps[-1] <= c.within for p in chance]) <= 0.2


@pytest.mark.parametrize("task", [*TASKS, "distract:pointmass"])
def test_the_goal_picture_is_what_would_be_seen_there(task):
    """Put the episode into the goal's state: its picture, but for the background, is the goal
    picture.
    """
    c = make_goal_task(task)
    first, shown, there = c.start_episode(3)
    here, other = c.env.unwrapped, c.other.unwrapped
    assert not np.array_equal(first, shown)
    if "physics" in dir(here):
        here.physics.set_state(other.physics.get_state())
        here.physics.forward()
    elif "bodies" in vars(here):
        here.set_state(other.state())
    elif "points" in vars(here):
        here.points = other.points
    else:
        here.position = other.position
    seen = c.env.render()
    mask = here.mask() == 1 if task.startswith("distract:") else slice(None)
    np.testing.assert_array_equal(seen[mask], shown[mask])
    assert np.array_equal(seen, shown) == (not task.startswith("distract:"))
    assert c.gap(read_state(c.env), there) == 0


def reach(*args, expect=0):
    return forked.run("benchmarks/reach", *args, expect=expect)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Make run directories: contrastive, reconstruction, and one that claims another task."""
    root = tmp_path_factory.mktemp("reach")
    small = ("--env.task", "rope", "--env.size", "[16,16]", "--run.frames", "30")
    small += ("--env.time_limit", "20")
    train(root, *small, "--loss.objective", "{forward_contrastive: 1.0}")
    train(root, *small, "--run.name", "draws")
    contrast, draws = seed_dir(root, "rope"), seed_dir(root, "rope", "draws")
    swings = shutil.copytree(draws, root / "swings")
    text = (swings / "config.yaml").read_text()
    (swings / "config.yaml").write_text(text.replace("task: rope", "task: pendulum"))
    return contrast, draws, swings


def test_one_command_compares_runs(trained, tmp_path):
    asked = (*trained[:2], "--episodes", "2", "--steps", "5", "--planner.horizon", "2")
    out, _ = reach(*asked, "--out", tmp_path / "a" / "strip.png")
    assert "(learnt)" in out and "(belief)" in out and "random actions" in out
    found = json.loads((tmp_path / "a" / "strip.json").read_text())
    assert len(found["players"]) == 3 and all(
        r["episodes"] == 2 for r in found["players"].values()
    )
    assert len({r["gap_at_start"] for r in found["players"].values()}) == 1
    width, height = Image.open(tmp_path / "a" / "strip.png").size
    assert width * 3 * (16 + BAR) == height * 16 * (COLUMNS + 1)
    reach(*asked, "--out", tmp_path / "b.png")
    assert json.loads((tmp_path / "b.json").read_text()) == found, "the same again"


def test_a_share_of_a_few_is_not_certain():
    assert compute_share_interval(0, 20) == pytest.approx((0, 0.161), abs=1e-3)
    assert compute_share_interval(10, 20) == pytest.approx((0.299, 0.701), abs=1e-3)
    assert compute_share_interval(20, 20) == pytest.approx((0.839, 1), abs=1e-3)


def test_backgrounds_and_limits_make_another_scene():
    plain, strong = (
        loading.parse(["env.task=rope"]),
        loading.parse(["env.task=rope", "distract.strength=0.5"]),
    )
    assert describe_scene(plain) == describe_scene(strong), (
        "a task without backgrounds has none to differ in"
    )
    tasks = [
        loading.parse(["env.task=distract:rope", f"distract.strength={s}"]) for s in (0.5, 1.0)
    ]
    assert (
        describe_scene(tasks[0])
        != describe_scene(tasks[1])
        != describe_scene(loading.parse(["env.task=rope", "env.time_limit=9"]))
    )


def test_what_it_cannot_be_asked_is_one_line(trained):
    contrast, _, swings = map(str, trained)
    for paths, changes, wanted in (
        ([swings], [], "is defined for pointmass, rope, pushing, dmc:reacher_easy only"),
        ([contrast, swings], [], "play different tasks"),
        ([contrast], [("planner.horizn", "3")], "did you mean planner.horizon?"),
        ([contrast], [("goal.distance", "learned")], "did you mean learnt?"),
        ([contrast], [("goal.image", "x.png")], "goal.image cannot be set here"),
        ([contrast], [("behavior.name", "random")], "behavior.name cannot be set here"),
        ([contrast], [("planner.score", "reward")], "planner.score cannot be set here"),
    ):
        with pytest.raises(ValueError) as caught:
            open_runs(paths, changes)
        assert wanted in str(caught.value) and "\n" not in str(caught.value)
    assert "is defined for pointmass" in reach(swings, expect=2)[1]
    assert "is not a run directory" in reach(contrast + "/nowhere", expect=4)[1]
