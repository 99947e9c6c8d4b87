"""Signals from the first line of a program on, and terminals that are closed."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from children import BRIEF, go, in_one, log_of, print_of, signalled_at, start
from forked import SECONDS, ended
from runs import ROOT, seed_dir

# A program whose process gets a signal when it imports a module, or is replaced by another.
STRUCK = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder

program, place, number, *words = sys.argv[1:]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, which may have started the tests

class Strike(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == place:
            signal.raise_signal(int(number))

def strike(*args, usual=os.execve):
    signal.raise_signal(int(number))
    usual(*args)

if place == "os.execve":
    os.execve = strike
sys.meta_path.insert(0, Strike())
sys.argv = [program, *words]
sys.path[0] = os.path.dirname(program)
runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.fault(
    35,
    "SIGINT, SIGTERM, SIGHUP or SIGUSR1 while train.py, eval.py and ./wm import, from the first "
    "library to the last, and while ./wm gives way to the program",
    "one line, nothing is written; ended by the signal (130, 143, 129, 138 in a shell)",
)
def test_a_signal_during_the_imports_is_one_line(tmp_path, record_property):
    train = ("train.py", "debug", "--run.root", str(tmp_path / "runs"))
    evaluate = ("eval.py", str(tmp_path / "runs"))
    ways = [
        (train, "worldmodel.envs", signal.SIGINT),
        (train, "worldmodel.config.schema", signal.SIGTERM),
        (train, "torch", signal.SIGHUP),
        (train, "worldmodel.programs.training", signal.SIGUSR1),
        (evaluate, "worldmodel.envs.names", signal.SIGTERM),
        (evaluate, "numpy", signal.SIGINT),
        (("wm", *train[1:]), "difflib", signal.SIGINT),
        (("wm", "train", *train[1:]), "os.execve", signal.SIGTERM),
    ]
    for (program, *words), place, number in ways:
        done = subprocess.run(
            [sys.executable, "-c", STRUCK, str(ROOT / program), place, str(int(number)), *words],
            env={**os.environ, "WM_VENV": "none", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (-number, ""), (program, place, done.stderr)
        assert done.stderr == f"stopped by {number.name}\n", (program, place)
    assert list(tmp_path.iterdir()) == []
    record_property("times", len(ways))


def strike_in(place, number):
    """Let a signal come in the middle of a part of a training's start."""
    from worldmodel.envs.parallel.process import Worker

    from worldmodel.run_directory import RunDir
    from worldmodel.training.trainer import Trainer

    owner, name = {
        "directory": (RunDir, "_has_checkpoints"),
        "worker": (Worker, "await_ready"),
        "trainer": (Trainer, "_make_learner"),
        "resume": (Trainer, "resume"),
        "record": (RunDir, "record_start"),
    }[place]
    usual = getattr(owner, name)

    def struck(self, *args):
        setattr(owner, name, usual)
        signal.raise_signal(number)
        return usual(self, *args)

    setattr(owner, name, struck)


def start_under_signals(call, root, words, ways):
    """Start a training as often as there are ways, each with a signal; what it said and left."""
    found = []
    for place, number in ways:
        strike_in(place, number)
        code, said = call("train", "debug", "--run.root", root, *words)
        children = Path("/proc/self/task", str(os.getpid()), "children").read_text()
        left = sorted(p.relative_to(root).as_posix() for p in Path(root).rglob("*"))
        found.append((code, said, left, children))
    return found


@pytest.mark.fault(
    35,
    "a signal while a training makes its run directory, starts two workers, builds its networks "
    "and resumes, of a new run and of a saved one",
    "one line, exit 130, 143, 129 or 138; no directory of a new run, a saved one as before; no "
    "worker is left",
)
def test_a_signal_while_a_training_starts_leaves_nothing_begun(tmp_path, record_property):
    ways = [
        ("directory", signal.SIGTERM),
        ("worker", signal.SIGINT),
        ("trainer", signal.SIGHUP),
        ("resume", signal.SIGUSR1),
    ]
    words = (*BRIEF, "--env.num", "2", "--train.prefill", "16")
    root = str(tmp_path / "runs")
    fresh = in_one(tmp_path, start_under_signals, root, words, ways)
    go(tmp_path, *words, "--run.root", root)
    before = print_of(root)
    again = in_one(tmp_path, start_under_signals, root, words, ways)
    for (_, number), found in zip([*ways, *ways], fresh + again, strict=True):
        code, said, _, children = found
        assert (code, children) == (128 + number, ""), said
        assert said == f"stopped by {number.name} while it started: nothing was begun\n"
    assert all(left == [] for _, _, left, _ in fresh)
    assert print_of(root) == before
    record_property("times", len(fresh + again))


@pytest.mark.fault(
    35,
    "SIGTERM when the configuration of a new run is written, before its first step",
    "saved at 0 frames, exit 75; the same command trains",
)
def test_a_signal_before_the_first_step_is_a_stop(tmp_path):
    (code, said, left, _), *_ = in_one(
        tmp_path, start_under_signals, str(tmp_path / "runs"), BRIEF, [("record", signal.SIGTERM)]
    )
    assert code == 75 and "stopped by SIGTERM at 0 frames, all is saved" in said
    assert any(name.endswith("state.json") for name in left)
    go(tmp_path, *BRIEF, "--run.root", tmp_path / "runs")


@pytest.mark.fault(
    35,
    "SIGTERM to a rank that waits for the others",
    "ended by it at once, nothing is written",
)
def test_a_signal_while_a_rank_waits_for_the_others_ends_it(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rank = start(tmp_path, *BRIEF, env=ranks)
    deadline = time.monotonic() + SECONDS
    listening = f":{port:04X} "
    while not any(listening in Path(f"/proc/net/{x}").read_text() for x in ("tcp", "tcp6")):
        assert time.monotonic() < deadline and rank.is_alive(), log_of(tmp_path).read_text()
        time.sleep(0.02)
    os.kill(rank.pid, signal.SIGTERM)
    assert ended(rank, log_of(tmp_path).read_text) == -signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["said.log"]


def close_terminal(look):
    """A terminal of the program's own, which is closed at the so manieth look."""
    return partial(_close_terminal, look)


def _close_terminal(look):
    import children

    os.setsid()
    master, slave = pty.openpty()
    os.close(os.open(os.ttyname(slave), os.O_RDWR))  # the first to be opened becomes its own
    os.dup2(slave, 0)
    left = look

    def count(_):
        nonlocal left
        left -= 1
        if left == 0:
            os.dup2(slave, 1)
            os.dup2(slave, 2)
            os.close(slave)
            os.close(master)

    children._watch(count)


def ignore_hangup(look):
    return partial(_ignore_hangup, look)


def _ignore_hangup(look):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signalled_at(look, "SIGHUP")()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    root = tmp_path_factory.mktemp("calm")
    go(root, *BRIEF)
    return print_of(root)


@pytest.mark.fault(
    34,
    "the terminal of a training is closed (SIGHUP, and standard streams that fail), and SIGHUP "
    "twice at once",
    "saved, exit 75; the same command resumes; the final state equals that of an undisturbed run",
)
def test_a_closed_terminal_is_a_stop(calm, tmp_path, record_property):
    go(tmp_path, *BRIEF, before=close_terminal(18), expect=75)
    assert json.loads((seed_dir(tmp_path) / "status.json").read_text())["state"] == "stopped"
    fault = {"WM_FAULT": "save:state-torn=SIGHUP+SIGHUP"}
    said = go(tmp_path, *BRIEF, env=fault, expect=75)
    assert "stopped by SIGHUP at" in said
    go(tmp_path, *BRIEF)
    assert print_of(tmp_path) == calm
    record_property("lost", 0)
    record_property("times", 2)


@pytest.mark.fault(
    34,
    "SIGHUP where it was ignored at the start, as nohup does",
    "training goes on, exit 0; the final state equals that of an undisturbed run",
)
def test_a_hangup_that_is_ignored_stops_nothing(calm, tmp_path, record_property):
    go(tmp_path, *BRIEF, before=ignore_hangup(18))
    assert print_of(tmp_path) == calm
    record_property("lost", 0)
