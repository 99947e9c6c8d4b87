"""Saved runs open without what only POSIX has; training says in one line what it needs.

macOS and Windows are imitated by taking away modules and functions. Nothing has been run there.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from runs import seed_dir, train

ROOT = Path(__file__).resolve().parents[1]
# Libraries first, since they may use what is taken away below where it exists.
WITHOUT_POSIX = """
import importlib.abc, json, logging, multiprocessing, os, signal, subprocess, sys, tempfile
import gymnasium, numpy as np, ruamel.yaml, safetensors.torch, torch, zstandard

class Absent(importlib.abc.MetaPathFinder):
    modules = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"}

    def find_spec(self, name, path, target=None):
        if name in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in Absent.modules:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in (
    "O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY fork register_at_fork geteuid getuid getpgid "
    "killpg setsid readv pread pwrite posix_fallocate sched_getaffinity sysconf uname statvfs mkfifo"
).split():
    delattr(os, name)
for name in "SIGHUP SIGUSR1 SIGUSR2 SIGKILL SIGALRM SIGPIPE pthread_sigmask setitimer".split():
    delattr(signal, name)
"""
OPEN = """
import worldmodel
run = worldmodel.load(sys.argv[1])
env = worldmodel.DreamEnv(run.path)
observation, _ = env.reset(seed=0)
env.step(env.action_space.sample())
action, carry = run.act(observation)
print(run.imagine(carry, np.stack([action] * 3)).shape)
"""
TRAIN = """
from worldmodel.system.process_start import prepare_process
prepare_process()
from worldmodel.command_line import train
sys.exit(train.main(["debug", "--run.root", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("portable")
    train(root, "--run.frames", "60")
    return seed_dir(root)


def run(code, path):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + code, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_saved_run_acts_imagines_and_is_dreamt_in(run_dir):
    done = run(OPEN, run_dir)
    assert done.returncode == 0 and "(3, 32, 32, 3)" in done.stdout, done.stderr


def test_training_says_what_it_needs_and_makes_nothing(tmp_path):
    done = run(TRAIN, tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "training needs a POSIX system" in done.stderr.splitlines()[0]
    assert not list(tmp_path.iterdir())
