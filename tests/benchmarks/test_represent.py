"""The table of objectives, made from run directories whose numbers are known."""

import json
import sys

import numpy as np
import pytest

import runs
from benchmarks import represent, state_readout
from worldmodel.config import loading
from worldmodel.sweep import local_pool


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(represent, "ROOT", tmp_path)
    represent.make_cell.cache_clear()
    monkeypatch.setattr(
        represent, "measure_readout", lambda path: json.loads((path / "r2.json").read_text())
    )

    def make(name, where, seed, returned, r2, state="done", extra=()):
        run = represent.find_run_directory("pendulum", name, where, seed)
        run.mkdir(parents=True)
        told = represent.make_arguments("pendulum", name, where, seed)
        (run / "config.yaml").write_text(loading.to_yaml(loading.parse([*told, *extra])))
        (run / "status.json").write_text(json.dumps({"state": state, "frames": 12000}))
        scores = [
            {"frames": 10, "eval/score": 1.0},
            {"frames": 20, "eval/score": returned, "time/minutes": 2.0},
        ]
        (run / "scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in scores))
        losses = [{"frames": 10, "train/feat/rank": 2.5}, {"frames": 20}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in losses))
        (run / "r2.json").write_text(json.dumps(r2))
        return run

    return make


def test_a_cell_lies_where_a_training_of_that_name_writes(made):
    run = represent.find_run_directory("cartpole", "inverse+contrastive", "distracted", 2)
    assert run.parts[-3:] == (
        "distract_dmc_cartpole_swingup",
        "represent_inverse_contrastive_distracted",
        "seed2",
    )


def test_closing_returns_and_known_states_are_averaged_over_seeds(made, tmp_path):
    made("barlow", "clean", 0, 100.0, [0.5, None])
    made("barlow", "clean", 1, 60.0, [0.9, 0.3])
    made("barlow", "distracted", 0, 60.0, [-0.25])
    made("bootstrap", "clean", 0, 50.0, [0.1])
    made("bootstrap", "clean", 1, 50.0, [0.1], state="stopped")  # not closed: left out
    lines = represent.gather_results("pendulum", 3)
    assert [(x["objective"], x["where"], x["seed"]) for x in lines] == [
        ("barlow", "clean", 0),
        ("barlow", "clean", 1),
        ("barlow", "distracted", 0),
        ("bootstrap", "clean", 0),
    ]
    made_of = represent.format_table(
        lines, {"reconstruction": 0.25, "barlow": 0.125, "bootstrap": 0.125}
    ).splitlines()
    numbers = (
        "80 (100, 60) | 60 (60) | 60% | 0.55 (0.50, 0.60) | -0.25 (-0.25) | 2.5 (2.5, 2.5) | 2.5 "
        "(2.5)"
    )
    assert f"| `barlow` | {numbers} | 0.125 | 50% |" in made_of
    assert (
        "| `bootstrap` | 50 (50) | - | - | 0.10 (0.10) | - | 2.5 (2.5) | - | 0.125 | 50% |"
        in made_of
    )
    represent.draw_bars(lines, tmp_path / "bars.png")
    represent.draw_curves(lines, tmp_path / "curves.png")
    assert min((tmp_path / name).stat().st_size for name in ("bars.png", "curves.png")) > 1000


def test_a_training_of_other_settings_is_not_counted(made):
    run = made("barlow", "clean", 0, 100.0, [0.5], extra=["--loss.rep", "7"])
    with pytest.raises(
        SystemExit, match=f"{run} was made with another configuration: loss.rep 7.0 -> 0.1"
    ):
        represent.gather_results("pendulum", 1)


def test_nothing_is_written_where_nothing_was_trained(made, tmp_path):
    with pytest.raises(SystemExit, match="no training of this table is done"):
        represent.main(["--summary", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "ends"), [(represent.DIVERGED, "no training of this table is done"), (3, "3")]
)
def test_one_that_diverges_is_left_out_and_one_that_fails_ends_it(
    made, tmp_path, monkeypatch, capsys, code, ends
):
    monkeypatch.setattr(
        local_pool,
        "make_command",
        lambda cell: [sys.executable, "-Sc", f"raise SystemExit({code})"],
    )
    words = ["--only", "barlow", "--where", "clean", "--seeds", "2", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=ends):
        represent.main(words)
    left_out = capsys.readouterr().err.count("diverged and is left out")
    assert left_out == (2 if code == represent.DIVERGED else 0)


def test_all_are_read_out_on_the_same_episodes_whatever_they_would_do_themselves(tmp_path):
    task = "distract:pendulum"
    for seed in (0, 1):
        runs.train(tmp_path, "--env.task", task, "--env.time_limit", "20", "--run.seed", str(seed))
    paths = [runs.seed_dir(tmp_path, "distract_pendulum", seed=seed) for seed in (0, 1)]
    seen = []
    for path in paths:
        run, env = state_readout.open_run(path)
        seen.append(
            [
                (obs["image"], obs["vector"])
                for obs, _ in state_readout.play_random_episode(run, env, 3)
            ]
        )
    assert len(seen[0]) == 20
    for first, second in zip(*seen, strict=True):
        assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    r2 = state_readout.measure_readout(paths[0])
    assert len(r2) == 3 and all(x is None or x <= 1 for x in r2)
    kept = paths[0] / "eval" / "shaken.json"
    assert json.loads(kept.read_text())["r2"] == r2
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "r2": [9.0]}))
    assert state_readout.measure_readout(paths[0]) == [9.0]  # kept
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "frames": 1}))
    assert state_readout.measure_readout(paths[0]) == r2  # of other weights: read anew
    state_readout.draw_pictures({"a": paths[0], "b": paths[1]}, tmp_path / "seen.png")
    assert (tmp_path / "seen.png").stat().st_size > 1000
