"""Tests of benchmarks/goal_share.py: the regions, the measure and the command."""

import json
import math

import numpy as np
import pytest

import forked
from benchmarks.goal_share import REGIONS, Episodes, find_region, format_table
from runs import seed_dir, train

PAIRS = [(task, name) for task, regions in REGIONS.items() for name in regions]


def make_episodes(task, name, count=5, seed=0):
    return Episodes(task, (24, 24), find_region(task, name), count, seed)


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_the_goal_is_in_its_region_and_the_expert_stays_there_longer_than_chance(task, name):
    played = make_episodes(task, name)
    for goal in map(np.array, played.region.goals):
        assert played.region.holds(goal, goal)
    shares = {k: np.mean(played.play(v)) for k, v in played.list_policies(task, 0).items()}
    assert shares["expert"] >= (0.3 if name == "swing_up" else 0.7), shares
    assert shares["random actions"] < 0.7 * shares["expert"], shares
    if (task, name) == ("pcc_pendulum", "balance"):
        assert shares["zero action"] < 0.6, "noise topples it"


def test_a_share_counts_the_steps_after_which_the_region_holds_the_state():
    """Of a pendulum that starts upright and falls; and steps after an early end are outside."""
    played, angles = make_episodes("pendulum", None, count=1, seed=3), []

    def let_fall(pictures, carry):
        angles.append(played.envs[0].unwrapped.state()[0])
        return np.zeros((1, 1), np.float32), carry

    share = played.play(lambda shown: let_fall)
    angles = [*angles[1:], played.envs[0].unwrapped.state()[0]]
    assert len(angles) == 100
    inside = [abs(math.remainder(a, 2 * math.pi)) <= math.pi / 6 for a in angles]
    assert share == [np.mean(inside)]
    played = make_episodes("cartpole", "balance", count=2)
    shares = played.play(lambda shown: lambda seen, carry: (np.ones((2, 1), np.float32), carry))
    assert max(shares) < 0.6 and all(played.ended)


def test_every_player_sees_the_same_starts_goals_and_noise():
    for task, name in (("pcc_planar", "corners"), ("pcc_pendulum", "balance")):
        played, seen = make_episodes(task, name, count=6, seed=7), []

        def stay(pictures, carry, played=played, seen=seen):
            assert carry is None or carry > 0
            seen.append((pictures, [env.unwrapped.state() for env in played.envs]))
            return np.zeros((6, *played.envs[0].action_space.shape)), (carry or 0) + 1

        goals = []
        for _ in range(2):
            played.play(lambda shown, stay=stay, goals=goals: goals.append(shown) or stay)
        np.testing.assert_array_equal(goals[0], goals[1])
        first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
        assert len(first) == played.region.steps
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])
        if task == "pcc_planar":
            assert len({goal.tobytes() for goal in goals[0]}) == 3, "of all three corners"


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
    assert set(found["shares"]) == {"plans (cem)", "expert", "zero action", "random actions"}
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


@pytest.mark.parametrize("dynamics", ["rssm", "linear_gaussian"])
def test_other_latents_are_measured_too(dynamics, tmp_path):
    small = ("--env.size", "[16,16]", "--run.frames", "30", "--behavior.name", "random")
    task = ("--env.task", "pcc_planar", "--env.kwargs.start", "anywhere", "--env.time_limit", "1")
    train(tmp_path, *task, *small, "--model.dynamics", dynamics, "--loss.overshooting", "1")
    run = seed_dir(tmp_path, "pcc_planar")
    asked = ("--episodes", "2", "--planner.horizon", "2", "--planner.name", "ilqr")
    rounds = ("--planner.iterations", "1", "--planner.restarts", "1")
    out, _ = forked.run("benchmarks/goal_share", run, *asked, *rounds)
    assert "plans (ilqr)" in out and "in the goal region of pcc_planar" in out
