"""eval.py on a run that is training, whose checkpoints vanish, or that cannot be written."""

import ctypes
import json
import os
import shutil
import signal
import time
from functools import partial

import pytest

import forked
from children import go, in_one, start
from runs import seed_dir, train

TINY = ["--run.frames", "36", "--train.prefill", "12", "--train.pretrain", "0"]
TINY += ["--behavior.name", "random", "--replay.length", "5", "--model.cnn", "[4]"]
TINY += ["--env.time_limit", "10", "--log.eval", "0", "--log.final_episodes", "1"]
SCORE = "return 55.0"  # of the counter: 1 + 2 + ... + 10


@pytest.mark.fault(
    39,
    "a run that trains on, saves at every step and keeps one checkpoint, evaluated meanwhile",
    "the score, exit 0, and the training goes on undisturbed to its exit 75",
)
def test_a_run_is_evaluated_while_it_trains(tmp_path, record_property):
    words = ["--run.frames", "100000000", "--log.checkpoint", "1", "--log.keep", "1"]
    training = start(tmp_path / "training", "--log.every", "1000", *TINY, *words)
    run = seed_dir(tmp_path / "training")
    try:
        while not list((run / "checkpoints").glob("[0-9]*")):
            assert training.is_alive(), (tmp_path / "training" / "said.log").read_text()
            time.sleep(0.05)
        for code, said in in_one(tmp_path, evaluate_each, str(run)):
            assert code == 0 and "warning" not in said, said
        before = count_frames(run)
        while count_frames(run) == before:
            assert training.is_alive()
            time.sleep(0.05)
    finally:
        os.kill(training.pid, signal.SIGTERM)
        code = forked.ended(training, (tmp_path / "training" / "said.log").read_text)
    assert code == 75 and not (run / "checkpoints" / "quarantine").exists()
    record_property("times", 3)


def evaluate_each(call, run):
    return [call("eval", run, "--episodes", "1") for _ in range(3)]


def count_frames(run):
    return json.loads((run / "status.json").read_text())["frames"]


@pytest.mark.fault(
    39,
    "a checkpoint deleted between listing and opening, while a newer one appears",
    "the newer one is evaluated, exit 0",
)
@pytest.mark.fault(
    39,
    "a run directory that may not be written",
    "the score is printed, then a line says what could not be written; exit 74",
)
def test_pruned_and_unwritable_runs_are_evaluated(tmp_path):
    train(tmp_path, *TINY, "--log.checkpoint", "12")
    run = seed_dir(tmp_path)
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*"))
    said = go(tmp_path, run, "--episodes", "1", program="eval", before=partial(prune, steps[-1]))
    assert SCORE in said and "trained on 36 frames" in said and "warning" not in said
    assert not (run / "checkpoints" / "quarantine").exists()

    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for folder in folders:
        folder.chmod(0o555)
    (run / "eval").chmod(0o755)
    for path in (run / "eval").iterdir():
        path.unlink()
    (run / "eval").chmod(0o555)
    said = go(tmp_path, run, "--episodes", "1", program="eval", before=obey_modes, expect=74)
    assert said.index(SCORE) < said.index("Permission denied") and "/eval" in said
    assert list((run / "eval").iterdir()) == []
    same = {path: t for path, t in before.items() if path.parent != run / "eval"}
    del same[run / "eval"]
    assert all(path.stat().st_mtime_ns == t for path, t in same.items())
    for folder in folders:
        folder.chmod(0o755)


def prune(newest):
    """Hide the newest checkpoint from the first listing, and delete what that listing finds."""
    from worldmodel.checkpoint import store

    usual = store.list_checkpoints

    def list_early(directory):
        store.list_checkpoints = usual
        found = [path for path in usual(directory) if int(path.name) != newest]
        for path in found:
            shutil.rmtree(path)
        return found

    store.list_checkpoints = list_early


def obey_modes():
    """Take from root the right to write where modes forbid it (CAP_DAC_OVERRIDE)."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << 1)  # of the effective set
    assert libc.capset(header, sets) == 0
