"""Tests of benchmarks/goal_share.py: the regions, the measure and the command."""

import json
import math

import numpy as np
import pytest

import forked
from benchmarks.goal_share import REGIONS, find_region, format_table, play_episode
from runs import seed_dir, train
from worldmodel import envs

PAIRS = [(task, name) for task, regions in REGIONS.items() for name in regions]


def make_env(task, region):
    return envs.make(task, size=(24, 24), time_limit=region.steps)


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_the_goal_is_in_its_region_and_the_expert_stays_there_longer_than_chance(task, name):
    region, expert = find_region(task, name), envs.load_expert(task)
    env, generator = make_env(task, region), np.random.default_rng(0)
    env.reset(seed=0)
    if task == "planar":
        env.unwrapped.goal = region.goal
    assert region.holds(np.array(region.goal))

    def act_expertly(picture, carry):
        return expert(env), carry

    def act_randomly(picture, carry):
        return generator.uniform(-1, 1, env.action_space.shape).astype(np.float32), carry

    known, chance = (
        np.mean([play_episode(env, region, [0, n], policy) for n in range(5)])
        for policy in (act_expertly, act_randomly)
    )
    assert known >= (0.3 if name == "swing_up" else 0.7), known
    assert chance < 0.7 * known, (known, chance)


def test_a_share_counts_the_steps_after_which_the_region_holds_the_state():
    """Of a pendulum that starts upright and falls; and steps after an early end are outside."""
    region = find_region("pendulum", None)
    env, angles = make_env("pendulum", region), []

    def let_fall(picture, carry):
        angles.append(env.unwrapped.state()[0])
        return np.zeros(1, np.float32), carry

    share = play_episode(env, region, [3, 1], let_fall)
    angles = [*angles[1:], env.unwrapped.state()[0]]
    assert len(angles) == 100
    assert share == np.mean([abs(math.remainder(a, 2 * math.pi)) <= math.pi / 6 for a in angles])
    region = find_region("cartpole", "balance")
    env, steps = make_env("cartpole", region), []

    def push(picture, carry):
        steps.append(1)
        return np.ones(1, np.float32), carry

    share = play_episode(env, region, [0, 0], push)
    assert len(steps) < 50 and share <= len(steps) / 50


def test_every_player_sees_the_same_starts():
    region = find_region("planar", "right")
    env, seen = make_env("planar", region), []

    def stay(picture, carry):
        assert carry is None or carry > 0
        seen.append((picture, env.unwrapped.state()))
        return np.zeros(2, np.float32), (carry or 0) + 1

    for _ in range(2):
        play_episode(env, region, [7, 2], stay)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) == 40 and (first[0][1] >= 3).all() and (first[0][1] <= 7).all()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], first[0][1])


def test_a_table_names_each_player():
    table = format_table({"plans (cem)": [0.5, 0.25], "zero action": [0.0, 0.0]})
    assert "37.5%   25.0%   50.0%  plans (cem)" in table and "0.0%    0.0%    0.0%  zero" in table


def test_one_command_measures_a_run_and_says_what_it_cannot_do(tmp_path):
    small = ("--env.size", "[16,16]", "--run.frames", "30", "--behavior.name", "random")
    linear = ("--model.dynamics", "locally_linear", "--locally_linear.frames", "2")
    train(tmp_path, "--env.task", "planar", *small, *linear, "--env.kwargs.start", "anywhere")
    run = seed_dir(tmp_path, "planar")
    asked = ("--episodes", "2", "--planner.horizon", "2", "--planner.candidates", "12")
    out, _ = forked.run(
        "benchmarks/goal_share", run, *asked, "--goal", "above", "--out", tmp_path / "a.json"
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found["shares"]) == {"plans (cem)", "zero action", "random actions"}
    assert all(len(shares) == 2 for shares in found["shares"].values())
    assert "in the goal region of planar" in out and "random actions" in out
    for words, line in (
        (("--goal", "left"), "--goal: planar has opposite, right, above, not 'left'"),
        (("--behavior.name", "random"), "behavior.name cannot be set here"),
    ):
        _, err = forked.run("benchmarks/goal_share", run, *words, expect=2)
        assert line in err
    with pytest.raises(ValueError, match="catcher: goal regions are defined for planar, pend"):
        find_region("catcher", None)
