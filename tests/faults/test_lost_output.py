"""Standard output and error that are full, closed or broken, from the start and in the middle."""

import json
import os
import subprocess
import sys

import pytest

from children import BRIEF, break_streams, go, print_of
from runs import ROOT, command, seed_dir

RETURNS = ("returns", "--episodes", "1")


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The root of a run whose output nothing disturbs."""
    root = tmp_path_factory.mktemp("calm")
    go(root, *BRIEF)
    return root


@pytest.mark.fault(
    33,
    "standard output and error that are full (/dev/full) or a broken pipe, from the start and "
    "in the middle, with a progress line at every step",
    "training goes on, exit 0; the final state equals that of an undisturbed run",
)
def test_a_training_without_its_output_ends_as_with_it(calm, tmp_path, record_property):
    ways = (("full", "pipe", 0), ("pipe", "full", 0), ("full", "pipe", 20), ("pipe", "full", 20))
    for number, (out, err, look) in enumerate(ways):
        root = tmp_path / str(number)
        go(root, *BRIEF, before=break_streams(out, err, look))
        assert print_of(root) == print_of(calm)
        assert json.loads((seed_dir(root) / "status.json").read_text())["state"] == "done"
    record_property("lost", 0)
    record_property("times", len(ways))


@pytest.mark.fault(
    33,
    "standard input, output and error closed before a training starts",
    "training goes on, exit 0; the final state equals that of an undisturbed run",
)
def test_a_training_started_without_streams_writes_into_no_file(calm, tmp_path, record_property):
    closed = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-c", closed, *command(tmp_path, *BRIEF)]
    assert subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0
    assert print_of(tmp_path) == print_of(calm)
    record_property("lost", 0)


@pytest.mark.fault(
    33,
    "standard output or error of an evaluation that is full, closed or a broken pipe",
    "the scores are in its files; exit 74 with a line if standard output is full, else 0",
)
def test_an_evaluation_without_its_output_writes_its_scores(calm, tmp_path, record_property):
    run, ways = seed_dir(calm), (("full", "", 74), ("pipe", "full", 0), ("closed", "closed", 0))
    scores = []
    for out, err, code in ways:
        (run / "eval" / "returns.json").unlink(missing_ok=True)
        before = break_streams(out, err)
        words = go(tmp_path, run, *RETURNS, program="eval", before=before, expect=code)
        assert ("standard output cannot be written" in words) == (code == 74), words
        scores.append(json.loads((run / "eval" / "returns.json").read_text())["scores"])
    assert scores[0] == scores[1] == scores[2]
    record_property("times", len(ways))


@pytest.mark.fault(
    33,
    "--help of train.py, eval.py and ./wm, and ./wm doctor, into a closed pipe, a full disk and "
    "nothing",
    "exit 0, no traceback",
)
def test_help_that_nobody_reads(record_property):
    ways = [
        ("train.py", "pipe"),
        ("eval.py", "pipe"),
        ("wm", "pipe"),
        ("wm", "full"),
        ("wm", "closed"),
    ]
    for program, way in ways:
        words = [sys.executable, ROOT / program, "--help"]
        done = subprocess.run(
            words, preexec_fn=break_streams(way, ""), stderr=subprocess.PIPE, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), (program, way)
    record_property("times", len(ways))


@pytest.mark.fault(
    33,
    "environments that print at every step, two in parallel, when standard error breaks",
    "no fault of the environments; training goes on, exit 0",
)
def test_an_environment_that_prints_into_nothing(tmp_path):
    printing = ("--env.task", "faulty:Talking", "--env.num", "2", "--train.prefill", "16")
    go(tmp_path, *BRIEF, *printing, before=break_streams("", "pipe", 4))
    lines = (seed_dir(tmp_path, task="faulty_Talking") / "metrics.jsonl").read_text().splitlines()
    faults = [x["env/faults"] for x in map(json.loads, lines) if "env/faults" in x]
    assert faults and not any(faults)
