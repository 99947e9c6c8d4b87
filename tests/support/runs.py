"""Running the real train.py in a directory of a test's own, and reading what it left."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import forked
from worldmodel import envs
from worldmodel.errors import WorldModelError
from worldmodel.programs.eval_options import parse_eval_arguments

ROOT = Path(__file__).resolve().parents[2]


def command(root, *args):
    return [sys.executable, str(ROOT / "train.py"), "debug", "--run.root", str(root), *args]


def start(root, *args):
    """train.py as a child process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(root, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def train(root, *args, **options):
    """train.py to its end; fails unless it exits as expected, always without a traceback."""
    return forked.run("train", "debug", "--run.root", root, *args, **options)


def evaluate(*args, **options):
    """eval.py to its end, as `train`."""
    return forked.run("eval", *args, **options)


def seed_dir(root, task="counter", name="debug", seed=0):
    return Path(root) / task / name / f"seed{seed}"


def fingerprint(run):
    """Hashes of everything that must be equal: tensors and state of the newest checkpoint, the
    metrics, the scores.
    """
    newest = max((run / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    prints = {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in newest.glob("*.safetensors")
    }
    state = json.loads((newest / "state.json").read_text())
    state.pop("logger")  # sizes of files that hold wall-clock speeds
    prints["state"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    prints["frames"] = state["frames"]
    for name in ("metrics.jsonl", "scores.jsonl"):
        lines = [json.loads(text) for text in (run / name).read_text().splitlines()]
        kept = [
            {k: v for k, v in line.items() if not k.startswith(("fps/", "time/"))}
            for line in lines
        ]
        prints[name] = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
        prints[f"{name} lines"] = len(kept)
    return prints


def mistaken(*args):
    """The exit code of an eval.py that ends by a user's mistake, and its line, without a process
    of its own.
    """
    from worldmodel.programs.evaluation import evaluate as evaluate_run

    with pytest.raises((SystemExit, WorldModelError)) as mistake:
        idle = SimpleNamespace(count_busy=lambda: 0)
        evaluate_run(parse_eval_arguments([str(arg) for arg in args]), envs, idle)
    error = mistake.value
    return error.code if isinstance(error, SystemExit) else error.exit_code, str(error)
