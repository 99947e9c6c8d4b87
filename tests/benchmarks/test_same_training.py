"""Names are translated, and results compared, as the proof that a rebuild changed nothing needs it."""

import json

import numpy as np
import pytest
import zstandard

from benchmarks import hash_run, same_training

TABLE = {
    "renamed": {"weights": {"model/rssm": "model/dynamics", "model/rssm.gru": "model/cell"}},
    "left_out": {"metrics": ["time"]},
}


@pytest.mark.parametrize(
    "old, new",
    [
        ("model/rssm", "model/dynamics"),
        ("model/rssm.out.weight", "model/dynamics.out.weight"),
        ("model/rssm.gru.gates", "model/cell.gates"),
        ("model/rssm2.out", "model/rssm2.out"),
        ("policy/rssm", "policy/rssm"),
    ],
)
def test_names_are_translated_by_whole_segments(old, new):
    assert hash_run.translate_name(old, TABLE["renamed"]["weights"]) == new


def result(**parts):
    setups = {"tiny": parts}
    return {"seed": 0, "precision": "fp32", "machine": {}, "setups": {}, "rows": setups}


BEFORE = result(
    weights={"model/rssm.out": "a", "model/reward": "b"},
    optimiser={"0/exp_avg": "c", "1/exp_avg": "d"},
    metrics={"time/minutes": "e", "loss": "f"},
)


def compare(after):
    lines, same = same_training.compare_results(BEFORE, after, TABLE)
    return [line.split(maxsplit=4)[4] for line in lines], same


def test_renamed_tensors_moved_optimiser_places_and_times_are_no_difference():
    after = result(
        weights={"model/reward": "b", "model/dynamics.out": "a"},
        optimiser={"0/exp_avg": "d", "1/exp_avg": "c"},
        metrics={"time/minutes": "other", "loss": "f"},
    )
    assert compare(after) == (["equal"] * 3, True)


def test_the_first_row_that_differs_is_named():
    after = result(
        weights={"model/dynamics.out": "a", "model/outcome": "b"},
        optimiser={"0/exp_avg": "c", "1/exp_avg": "other"},
        metrics={"loss": "other"},
    )
    words, same = compare(after)
    assert not same
    assert words == [
        "DIFFERENT in 2 of 3, first model/outcome (only after; model/reward holds the same, is it a rename?)",
        "DIFFERENT in 1 of 2, first 1/exp_avg",
        "DIFFERENT in 1 of 1, first loss",
    ]


def test_results_that_share_no_setup_are_not_equal():
    assert not same_training.compare_results(BEFORE, {**BEFORE, "rows": {}}, TABLE)[1]


def test_comparing_files_answers_by_exit_code(tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps(BEFORE))
    two.write_text(json.dumps({**BEFORE, "rows": {"tiny": {"weights": {}}}}))
    assert same_training.main(["--compare", str(one), str(one)]) == 0
    assert same_training.main(["--compare", str(one), str(two)]) == 1


def test_replay_columns_come_out_of_plain_and_packed_chunks(tmp_path):
    kinds = [("c0", "<f4", (2,)), ("flags", "u1", (1,))]
    rows = np.zeros(5, kinds)
    rows["c0"] = np.arange(10).reshape(5, 2)
    rows["flags"][:, 0] = [1, 0, 2, 3, 0]
    blocks = [zstandard.compress(rows[i : i + 2].tobytes()) for i in (0, 2)]
    head = np.array([4, 1, 2, *map(len, blocks)], "<u4").tobytes()
    (tmp_path / "a.zrows").write_bytes(head + b"".join(blocks))
    (tmp_path / "b.rows").write_bytes(rows[4:].tobytes() + b"newer than the checkpoint"[:9])
    manifest = {
        "format": 1,
        "spec": {"action": [[2], "<f4"], "is_last": [[], "|b1"], "is_first": [[], "|b1"]},
        "chunks": [
            {"file": "b.rows", "stream": 0, "first": 4, "rows": 1},
            {"file": "a.zrows", "stream": 0, "first": 0, "rows": 4},
        ],
    }
    assert hash_run.read_replay(tmp_path, manifest) == {
        "action": ([5, 2], "<f4", rows["c0"].tobytes()),
        "is_first": ([5], "|b1", bytes([1, 0, 0, 1, 0])),
        "is_last": ([5], "|b1", bytes([0, 0, 1, 1, 0])),
    }


@pytest.mark.parametrize(
    "observation",
    [
        {"image": [8, 9, 3], "vector": None},
        {"image": {"shape": [8, 9, 3], "kind": "picture"}},
        {"image": [8, 9, 3]},
    ],
)
def test_observations_are_alike_however_their_specs_are_written(observation):
    assert hash_run.list_shapes(observation) == {"image": [8, 9, 3]}
    assert hash_run.list_shapes({"vector": 5}) == hash_run.list_shapes({"vector": [5]})
