"""Tests of benchmarks/goal_table.py: its commands, what it skips, and the table."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import goal_table
from benchmarks.goal_table import DOMAINS, MODELS, Cell, format_table, list_cells
from worldmodel.config import loading


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(goal_table, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("cell", list(list_cells(list(DOMAINS), list(MODELS), 1)), ids=str)
def test_every_model_learns_from_the_same_transitions(cell, tmp_path):
    script, *words = cell.make_command(tmp_path)
    c = loading.parse(words)
    assert script == "train.py"
    assert (c.env.time_limit, c.train.prefill, c.run.frames) == (1, 5000, 5000)
    assert c.env.kwargs == {"start": "anywhere"} and c.behavior.name == "random"
    assert c.replay.batch * c.replay.length == 256
    assert c.loss.reward_free and c.loss.overshooting == 1


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_row_with_decorrelation_learns_with_it_in_every_domain(domain, tmp_path):
    words = Cell(domain, "pc3_apart", 0).make_command(tmp_path)[1:]
    assert loading.parse(words).loss.objective["decorrelation"] > 0


def test_first_seeds_come_before_second_ones_and_planners_share_models(tmp_path):
    cells = list(list_cells(["planar", "balance", "swing_up"], ["rssm_cem", "rssm_ilqr"], 2))
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6
    paths = {cell.find_run(tmp_path) for cell in cells}
    assert len(paths) == 4, "one model for each seed of the plane and of the pendulum"


def test_known_cells_are_skipped_and_others_added(results, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(goal_table, "train", lambda cell, root: trained.append(cell))
    monkeypatch.setattr(goal_table, "evaluate", lambda cell, root: {"shares": [0.25, 0.75]})
    monkeypatch.setattr(goal_table, "measure_baselines", lambda name: iter([]))
    asked = SimpleNamespace(domains=["planar"], models=["pc3"], seeds=2, root=tmp_path)
    goal_table.fill(asked)
    assert trained == [Cell("planar", "pc3", 0), Cell("planar", "pc3", 1)]
    asked.seeds = 3
    goal_table.fill(asked)
    assert trained[2:] == [Cell("planar", "pc3", 2)]
    rows = [json.loads(line) for line in (results / "planar.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2]


def test_the_table_has_means_over_models_and_the_best_one(results):
    results.mkdir()
    rows = [
        {"domain": "planar", "model": "pc3", "seed": seed, "shares": shares}
        for seed, shares in enumerate(([0.2, 0.4], [0.5, 0.7]))
    ]
    (results / "planar.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = format_table()
    assert "45.0 / 60.0 (2)" in table and "pc3" in table


def test_a_row_may_plan_in_another_way_than_the_rest_of_its_domain():
    usual, own = (Cell("cartpole", m, 0).list_planner_keys() for m in ("pc3", "pc3_apart"))
    assert (usual["planner.horizon"], "goal.at" in usual) == (5, False)
    assert own == usual | {"planner.horizon": 20, "planner.restarts": 10, "goal.at": "end"}
    assert Cell("planar", "pc3_apart", 0).list_planner_keys()["planner.horizon"] == 10


def test_a_run_that_was_made_with_other_keys_is_refused(tmp_path, capfd):
    cell = Cell("planar", "pc3", 0)
    short = ["--train.pretrain", "1", "--log.checkpoint", "64"]
    short += [
        w for key in ("run.frames", "train.prefill", "train.round") for w in (f"--{key}", "64")
    ]
    words = [sys.executable, *cell.make_command(tmp_path), *short]
    subprocess.run(words, cwd=goal_table.ROOT, check=True)
    capfd.readouterr()
    with pytest.raises(subprocess.CalledProcessError):
        goal_table.train(cell, tmp_path)
    assert "train.pretrain 1 -> 4000" in capfd.readouterr().err
