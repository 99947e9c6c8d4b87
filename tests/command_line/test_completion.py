"""Completion, asked of a real bash: commands, presets, keys, their choices, and runs."""

import shutil
import subprocess
import sys

import pytest
from test_listings import make_run

from runs import ROOT
from worldmodel.command_line import completion
from worldmodel.command_line.completion import SCRIPTS
from worldmodel.command_line.main import COMMANDS

BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="no bash here")
def test_bash_completes(tmp_path):
    make_run(tmp_path / "runs")
    (tmp_path / "wm").symlink_to(ROOT / "wm")
    asked = [
        ("./wm", "tr"),
        ("./wm", "train", "pend"),
        ("./wm", "train", "pendulum", "--planner.cand"),
        ("./wm", "train", "--planner.name", ""),
        ("./wm", "eval", "runs/"),
        ("./wm", "eval", "runs/counter/debug/seed0", "im"),
        ("./wm", "eval", "runs/counter/debug/seed0", "play", "--po"),
        ("./wm", "eval", "x", "y z", "--noth"),
    ]
    script = [f'PATH="{ROOT / "tests"}:$PATH"', SCRIPTS["bash"], "complete -p wm"]
    for words in asked:
        given = " ".join(f"'{word}'" for word in words)
        script += [f"COMP_WORDS=({given}) COMP_CWORD={len(words) - 1}", "_wm"]
        script += ['echo "${COMPREPLY[@]}"']
    done = subprocess.run(
        [BASH, "--norc", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "complete -o default -F _wm wm",
        "train",
        "pendulum",
        "--planner.candidates",
        "cem mppi shooting gradient ilqr",
        "runs/counter/debug/seed0",
        "imagine",
        "--port",
        "",
    ], done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_reads_its_script(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    printed = subprocess.run(
        [sys.executable, "-S", ROOT / "wm", "completion", shell], capture_output=True, text=True
    )
    assert printed.stdout == SCRIPTS[shell] and printed.returncode == 0
    done = subprocess.run([shell, "-n"], input=printed.stdout, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def complete_words(words):
    return completion.complete_words(words, list(COMMANDS))


def test_words_that_could_come_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert complete_words([""])[:2] == ["train", "eval"] and complete_words([]) != []
    assert complete_words(["train", "--see"]) == ["--seed"]
    assert complete_words(["train", "--run.fresh", ""]) == ["true", "false"]
    assert complete_words(["train", "--seed", ""]) == []
    assert complete_words(["train", "--help", "planner"])[:2] == ["planner", "planner.name"]
    assert complete_words(["eval", "la"]) == ["latest"]
    assert complete_words(["eval", "x", "report", "--"]) == ["--help"]
    assert complete_words(["eval", "x", "--render", "g"]) == ["gl"]
    assert complete_words(["tasks", "-"]) == ["--all", "--help"]
    assert complete_words(["nothing", ""]) == ["--help"]
    assert complete_words(["sweep", "--jo"]) == ["--jobs"]
    assert complete_words(["sweep", "pend"]) == ["pendulum"]
    assert complete_words(["sweep", "pendulum", "--loss.imag"]) == ["--loss.image"]
    assert complete_words(["sweep", "pendulum", "--set", "loss.imag"]) == ["loss.image="]
    make_run(tmp_path / "runs")
    assert complete_words(["pack", ""]) == ["runs/counter/debug/seed0", "latest"]
    assert complete_words(["pack", "x", "--r"]) == ["--replay"]
