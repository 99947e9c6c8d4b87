"""Beside mbrl-lib: ratios of medians, and a program that cannot start is one line."""

import sys

import pytest

from benchmarks.beside_mbrl import Worker, describe


def test_a_program_is_as_many_times_as_fast_as_medians_say():
    found = describe("bf16", [0.5, 9.0, 0.4], [2.0, 2.2, 1.0])
    assert found["seconds_per_action"] == 0.5 and found["times_as_fast"] == 4.0
    assert (found["least"], found["most"]) == (0.4, 9.0)


def test_a_worker_that_cannot_start_ends_the_program_with_its_command(tmp_path, capfd):
    worker = Worker(sys.executable, "mbrl", str(tmp_path), "0")
    with pytest.raises(SystemExit, match="beside_mbrl.py.* ended"):
        worker.ask("act")
    worker.process.wait()
    assert "No module named 'mbrl'" in capfd.readouterr().err
