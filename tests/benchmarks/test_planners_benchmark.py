"""The benchmark of planners, shortened."""

import json
from functools import partial

import pytest
import torch

from benchmarks import planners
from runs import seed_dir, train
from worldmodel.config import loading
from worldmodel.model.derivatives import estimate_hessian, estimate_jacobian


def count_calls(planner, calls, states, actions):
    """The calls of a planner with its keys, each by the formula of its own file."""
    keys = planners.list_keys(planner, calls, states, actions)
    p = loading.parse([f"{key}={value}" for key, value in keys]).planner
    if planner == "gradient":
        return p.candidates * (3 * p.iterations + 1)
    if planner == "ilqr":
        return p.iterations * planners.count_round(states, actions)
    return p.candidates * p.iterations


@pytest.mark.parametrize("calls", [300, 3000])
def test_all_planners_make_about_as_many_calls(calls):
    for planner in planners.PLANNERS:
        assert 0.75 * calls <= count_calls(planner, calls, 4, 1) <= 1.05 * calls, planner


def test_a_round_of_ilqr_is_counted_by_its_rollouts_and_passes():
    assert planners.count_round(4, 1) == 11 + (1 + 2 * 4) + (1 + 2 + 4 * 5)
    rows = []

    def count(points):
        rows.append(len(points))
        return points.sum(-1)

    row = torch.zeros(1, 3).double()
    estimate_hessian(count, row, [0, 1, 2])
    estimate_jacobian(lambda points: count(points).unsqueeze(-1), row, [0, 1, 2])
    assert planners.count_round(2, 1, by_differences=True) == 11 + sum(rows)


def test_problems_are_planned_and_none_beats_the_best(monkeypatch):
    monkeypatch.setattr(planners, "PROBLEMS", {"mass": partial(planners.make_mass, 1, 5)})
    found = list(planners.plan_problems([200], 2))
    assert [line["planner"] for line in found] == list(planners.PLANNERS)
    assert all(line["worst"] <= line["return"] <= line["best"] + 1e-3 for line in found)
    assert found[-1]["return"] == pytest.approx(found[-1]["best"], abs=1e-3)
    assert all(line["ms"] > 0 for line in found)


def test_the_pendulum_is_scored_step_by_step_and_as_a_whole_alike():
    problem = planners.make_pendulum(6)
    plan = torch.rand(1, 1, 6, 1, dtype=torch.float64)
    state, cost = problem.start, 0.0
    for number in range(6):
        state, now = problem.step(state, plan[0, :, number], number)
        cost += now.item()
    assert problem(plan).item() == pytest.approx(-cost)


def test_a_saved_run_is_driven_by_each(tmp_path, capsys):
    args = ("--env.task", "pendulum", "--env.obs", "state", "--env.time_limit", "5")
    train(tmp_path, *args, "--model.dynamics", "mlp", "--loss.objective", "{}", "--log.eval", "0")
    run = str(seed_dir(tmp_path, "pendulum"))
    short = ("--calls", "30", "--episodes", "1", "--planner.horizon", "3")
    assert planners.main([run, *short]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert [line["planner"] for line in lines] == list(planners.PLANNERS)
    assert all(len(line["scores"]) == 1 and line["ms"] > 0 for line in lines)
    assert {line["run"] for line in lines} == {"pendulum/debug/seed0"}
    file = tmp_path / "lines.jsonl"
    file.write_text("noise\n" + "".join(json.dumps(line) + "\n" for line in lines))
    assert planners.main(["--table", str(file)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| run | calls per step | cem | mppi | gradient | ilqr |"
    (cem,) = [line for line in lines if line["planner"] == "cem"]
    assert table[2].startswith(
        f"| pendulum/debug/seed0 | 30 | {cem['return']:.1f} ({cem['low']:.1f} to "
    )


def test_a_table_has_a_row_for_each_run_and_budget():
    def line(run, calls, planner, **more):
        figures = {"return": 3.0, "low": 2.0, "high": 4.0, "ms": 5.4}
        return {"run": run, "calls": calls, "planner": planner, **(more or figures)}

    lines = [
        line("a", 300, "cem"),
        line("b", 300, "ilqr", left_out="it cannot"),
        line("a", 3000, "cem"),
        line("b", 300, "cem"),
    ]
    assert planners.format_table(lines).splitlines() == [
        "| run | calls per step | cem | ilqr |",
        "|---|---|---|---|",
        "| a | 300 | 3.0 (2.0 to 4.0), 5 ms |  |",
        "| b | 300 | 3.0 (2.0 to 4.0), 5 ms | - |",
        "| a | 3000 | 3.0 (2.0 to 4.0), 5 ms |  |",
    ]
