"""The benchmark of dreams, shortened."""

import json

import torch

from benchmarks import dream
from runs import seed_dir, train


def test_it_times_one_dream_and_many(tmp_path, capsys):
    train(tmp_path, "--run.frames", "60")
    run, out = str(seed_dir(tmp_path)), tmp_path / "rates.jsonl"
    threads = str(torch.get_num_threads())  # which the program sets
    short = ("--batches", "1", "3", "--threads", threads, "--horizon", "4")
    dream.main([run, *short, "--turns", "1", "--steps", "6", "--out", str(out)])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["envs"] for line in lines] == ["DreamEnv", "1", "3"]
    assert lines[0]["times_one"] == 1 and all(line["steps_per_s"] > 0 for line in lines)
    dream.main([run, *short, "--parts"])
    shown = capsys.readouterr().out
    assert shown.count("'whole step'") == 3 and "GFLOP/s" in shown
