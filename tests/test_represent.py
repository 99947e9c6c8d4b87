"""The table of objectives, made from run directories whose numbers are known."""

import json

import numpy as np
import pytest

import runs
from benchmarks import represent


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(represent, "ROOT", tmp_path)

    def make(name, where, seed, returned, r2, state="done"):
        run = represent.place("pendulum", name, where, seed)
        (run / "eval").mkdir(parents=True)
        (run / "status.json").write_text(json.dumps({"state": state, "frames": 20}))
        scores = [{"frames": 10, "eval/score": 1.0}, {"frames": 20, "eval/score": returned, "time/minutes": 2.0}]
        (run / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in scores))
        (run / "metrics.jsonl").write_text(
            json.dumps({"train/feat/rank": 2.5}) + "\n" + json.dumps({"frames": 20}) + "\n"
        )
        (run / "eval" / "shaken.json").write_text(json.dumps({"r2": r2}))
        return run

    return make


def test_a_cell_lies_where_a_training_of_that_name_writes(made):
    run = represent.place("cartpole", "inverse+contrastive", "distracted", 2)
    assert run.parts[-3:] == ("distract_dmc_cartpole_balance", "represent_inverse_contrastive_distracted", "seed2")


def test_closing_returns_and_known_states_are_averaged_over_seeds(made, tmp_path):
    made("barlow", "clean", 0, 100.0, [0.5, None])
    made("barlow", "clean", 1, 60.0, [0.9, 0.3])
    made("barlow", "distracted", 0, 60.0, [0.25])
    made("bootstrap", "clean", 0, 50.0, [0.1], state="stopped")  # not closed: left out
    lines, speed = represent.gather("pendulum", 3), dict.fromkeys(represent.OBJECTIVES, 0.125)
    assert [(x["objective"], x["where"], x["seed"]) for x in lines] == [
        ("barlow", "clean", 0), ("barlow", "clean", 1), ("barlow", "distracted", 0)
    ]  # fmt: skip
    row = next(x for x in represent.table(lines, speed).splitlines() if x.startswith("| `barlow`"))
    wanted = "80 (100, 60) | 60 (60) | 75% | 0.55 (0.50, 0.60) | 0.25 (0.25) | 2.5 (2.5, 2.5) | 2.5 (2.5) | 0.125"
    assert row == f"| `barlow` | {wanted} |"
    assert "| `bootstrap` | - | - | - | - | - | - | - | 0.125 |" in represent.table(lines, speed)
    represent.draw(lines, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000


def test_all_are_read_out_on_the_same_episodes_whatever_they_would_do_themselves(tmp_path):
    task = "distract:pendulum"
    for seed in (0, 1):
        runs.train(tmp_path, "--env.task", task, "--env.time_limit", "20", "--run.seed", str(seed))
    paths = [runs.seed_dir(tmp_path, "distract_pendulum", seed=seed) for seed in (0, 1)]
    seen = []
    for path in paths:
        run, env = represent.opened(path)
        seen.append([(obs["image"], obs["vector"]) for obs, _ in represent.shaken(run, env, 3)])
    assert len(seen[0]) == 20
    for first, second in zip(*seen, strict=True):
        assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    r2 = represent.read_out(paths[0])
    assert len(r2) == 3 and all(x is None or x <= 1 for x in r2)
    assert json.loads((paths[0] / "eval" / "shaken.json").read_text())["r2"] == r2
