"""Tests of benchmarks/goal_images.py: lines of several tasks and models, and their table."""

import json

import pytest

import forked
from benchmarks.goal_images import format_tables
from runs import seed_dir, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Make runs of two tasks, by three dynamics."""
    root = tmp_path_factory.mktemp("images")
    small = ("--env.size", "[16,16]", "--run.frames", "30", "--behavior.name", "random")
    small += ("--env.time_limit", "4", "--log.final_episodes", "1", "--replay.length", "4")
    small += ("--loss.overshooting", "1", "--log.eval", "0")
    rope = ("--env.task", "rope", *small)
    train(root, *rope, "--loss.objective", "{forward_contrastive: 1.0}")
    linear = ("--model.dynamics", "locally_linear", "--loss.objective")
    train(root, *rope, *linear, "{transition_contrastive: 1.0}", "--run.name", "linear")
    moved = ("--model.dynamics", "pixels", "--loss.objective", "{}")
    train(root, "--env.task", "pushing", *small, *moved)
    return seed_dir(root, "rope"), seed_dir(root, "rope", "linear"), seed_dir(root, "pushing")


def measure(*args, expect=0):
    return forked.run("benchmarks/goal_images", *args, expect=expect)


def test_runs_of_any_task_and_dynamics_add_lines_once(trained, tmp_path):
    file = tmp_path / "a" / "lines.jsonl"
    asked = ("--episodes", "2", "--steps", "6", "--planner.horizon", "2", "--out", file)
    measure(*trained[:1], *asked)
    out, _ = measure(*trained, *asked, "--table")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    players = ["random actions", "expert", "rope/debug/seed0", "rope/linear/seed0"]
    assert [line["player"] for line in lines] == [
        *players,
        "random actions",
        "expert",
        "pushing/debug/seed0",
    ]
    assert all(line["steps"] == 6 and line["episodes"] == 2 for line in lines), (
        "no run's own limit ends an episode"
    )
    assert len({line["gap_at_start"] for line in lines[:4]}) == 1, "the same episodes"
    assert lines[1]["gap"] < lines[0]["gap"]
    assert [line.get("distance") for line in lines[2:4]] == ["learnt", "belief"]
    assert all(line["ever"] >= line["reached"] for line in lines)
    assert "| locally_linear | transition_contrastive 1 | belief, every | cem, 2 steps |" in out
    measure(*trained, *asked)
    assert len(file.read_text().splitlines()) == len(lines), "nothing is played again"
    measure(trained[0], *asked, "--goal.at", "end")
    assert len(file.read_text().splitlines()) == len(lines) + 1


def test_a_table_ranks_by_goals_and_then_by_gaps():
    line = {"task": "rope", "episodes": 50, "low": 0.0, "high": 0.1, "ms": 2.0, "gap_at_start": 1}
    found = format_tables(
        [
            {**line, "player": name, "reached": reached, "gap": gap}
            for name, reached, gap in (("a", 0.1, 0.4), ("b", 0.2, 0.5), ("c", 0.1, 0.3))
        ]
    )
    assert [row[2] for row in found.splitlines()[4:]] == ["b", "c", "a"]
    assert "10 of 50" in found


def test_plans_in_the_truth_reach_more(trained, tmp_path):
    """Who knows steps and distance comes nearer than who knows nothing, and starts the same."""
    file = tmp_path / "lines.jsonl"
    asked = ("--episodes", "2", "--steps", "12", "--planner.horizon", "1", "--out", file)
    measure(trained[0], *asked, "--limits", "--planner.candidates", "30")
    lines = {}
    for text in file.read_text().splitlines():
        line = json.loads(text)
        lines[line["player"].removeprefix("rope/debug/seed0")] = line
    assert [*lines] == [
        "random actions",
        "expert",
        "",
        ", true steps",
        ", true steps and distance",
    ]
    informed = lines[", true steps and distance"]
    assert informed["gap"] < 0.3 * informed["gap_at_start"] < lines["random actions"]["gap"]
    assert lines[", true steps"]["given"] == "true steps"
    assert len({line["gap_at_start"] for line in lines.values()}) == 1
    error = measure(trained[1], *asked, "--limits", expect=2)[1]
    assert "is of rope by transition_contrastive; take a built-in task and" in error
