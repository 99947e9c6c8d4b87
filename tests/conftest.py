"""Tests use one thread each: the tensors are tiny, and threads would only wait for each other.

What a test marked `fault` has survived, or not, is noted as a line of JSON in the file that
WM_SURVIVED names; benchmarks/reliability.py makes a table of them. WM_ROWS chooses rows of it.
"""

import json
import os
import signal
import sys
import tempfile

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy reads it as it is imported

import pytest
import torch

torch.set_num_threads(1)
# No test cuts the power, and a save of a tiny agent mostly waits for the disk. Programs that are
# started as processes of their own, not forked, wait as usual.
os.fsync = os.fstat

STATE = tempfile.TemporaryDirectory()  # instead of the user's own state folder, with their key
os.environ["XDG_STATE_HOME"] = STATE.name

# Without cached bytecode every program that a test starts compiles all files again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The files that take longest, first: nothing is left over for one core alone at the end.
LONGEST = (
    "test_exact_resume.py",
    "test_soak.py",
    "test_training.py",
    "test_actor_critic.py",
    "test_saves.py",
    "test_forged_directories.py",
    "test_eval_model.py",
    "test_ladder.py",
    "test_fuzz_config.py",
    "test_mutants.py",
    "test_new_components.py",
    "test_wm.py",
    "test_report.py",
    "test_ranks.py",
)
OUTCOMES = pytest.StashKey[set[str]]()  # of a test's setup, call and teardown


def pytest_collection_modifyitems(items):
    if rows := json.loads(os.environ.get("WM_ROWS", "[]")):
        items[:] = [
            item
            for item in items
            if any(mark.args[0] in rows for mark in item.iter_markers("fault"))
        ]
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )


@pytest.fixture(autouse=True)
def one_thread():
    """What a test has set is not the next one's: two threads on a core that another worker uses
    are thrice as slow.
    """
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def default_interrupt():
    """Every test meets Python's own handler of Ctrl-C, whatever a shell or a test before set."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    outcomes = item.stash.setdefault(OUTCOMES, set())
    outcomes.add(report.outcome)
    path = os.environ.get("WM_SURVIVED")
    if not path or report.when != "teardown" or "skipped" in outcomes:
        return
    with open(path, "a") as file:
        for mark in item.iter_markers("fault"):
            row, injected, outcome = mark.args
            test = f"{item.path.name}::{item.originalname}"
            line = {
                "row": row,
                "injected": injected,
                "outcome": outcome,
                "test": test,
                "case": item.name,
                "passed": "failed" not in outcomes,
            }
            line |= dict(item.user_properties)
            file.write(json.dumps(line) + "\n")
