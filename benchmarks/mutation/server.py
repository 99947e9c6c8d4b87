"""A process that has imported torch and pytest, but nothing of this project, and forks tests.

Each request is a line of JSON on standard input, each answer one on standard output. The tests of
a request run in a fork of this process, one after another until one fails. A test that takes
longer than its limit ends them. Whatever they leave running is killed.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLLECTION_SECONDS = 120  # for importing the tests' files on a busy machine
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
OWN = {"worldmodel", "envs", "benchmarks", "train", "eval", "wm"}
# Their import reads environment variables that a test may set first, or starts a display.
NOT_PRELOADED = {"mujoco", "dm_control", "dm_env", "OpenGL", "matplotlib", "tensorboard"}


class Server:
    """Starts the process and talks to it."""

    def __init__(self, tree: Path, scratch: Path):
        self.scratch = scratch
        own = ("PYTEST_", "WM_SURVIVED")  # of a test that starts this
        kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        environment = kept | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CI": "true",  # hypothesis draws the same examples each time
            "TMPDIR": str(scratch),
            "XDG_CACHE_HOME": str(scratch.with_name("cache")),
        }
        for folder in (scratch, scratch.with_name("cache")):
            folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(tree), str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches the caller, which closes this
        )

    def run_tests(
        self,
        tests: dict[str, float],
        lines: Path | None = None,
        options: Sequence[str] = ("-x",),
        compile_all: bool = False,
    ) -> dict[str, Any]:
        """Run tests, each with its limit in seconds; with a folder `lines`, record what lines they
        run. `options` are pytest's; `compile_all` writes bytecode.

        Returns `outcome` (passed, failed, timeout, crashed, broken), the `test` that failed, its
        `message`, and the seconds of each test.
        """
        assert tests, "without any, pytest would run all"
        request = {
            "tests": tests,
            "lines": str(lines) if lines else None,
            "options": options,
            "compile": compile_all,
        }
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the test server ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class ChosenTests:
    """A pytest plugin: runs only the chosen tests, file by file, and reports each to a pipe."""

    def __init__(self, tests: Sequence[str], pipe: int, recorder):
        self.rank = {test: i for i, test in enumerate(tests)}
        self.pipe, self.recorder = pipe, recorder
        self.seconds: dict[str, float] = {}

    def send(self, **event) -> None:
        os.write(self.pipe, (json.dumps(event) + "\n").encode())

    def pytest_collection_modifyitems(self, session, config, items):
        whole = {test for test in self.rank if "::" not in test}
        if not whole:
            items[:] = [item for item in items if item.nodeid in self.rank]
            items.sort(key=lambda item: self.rank[item.nodeid])
        self.send(collected=[item.nodeid for item in items])

    def pytest_runtest_logstart(self, nodeid, location):
        if self.recorder:
            self.recorder.start_test()
            number = len(list(self.recorder.folder.iterdir()))
            (self.recorder.folder / "test").write_text(f"lines-{number}")
            self.send(started=nodeid, lines=f"lines-{number}")
        else:
            self.send(started=nodeid)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            last = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            self.send(failed=report.nodeid, when=report.when, message=" ".join(last)[:200])
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.when == "call":
            seconds = self.seconds[report.nodeid]
            self.send(ended=report.nodeid, seconds=seconds, outcome=report.outcome)

    def pytest_collectreport(self, report):
        if report.failed:
            last = [line for line in report.longreprtext.splitlines() if line.strip()][-1:]
            self.send(failed=report.nodeid, when="collect", message="".join(last)[:200])


def find_imports(tree: Path) -> set[str]:
    """Packages of others that the project and its tests import."""
    found = set()
    local = {path.stem for path in tree.rglob("tests/**/*.py")} | OWN
    for folder in ("worldmodel", "envs", "tests"):
        for path in (tree / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module)
    return {name for name in found if name.split(".")[0] not in local | NOT_PRELOADED}


def start_recorder(tree: Path, folder: Path):
    """Record the lines of this process, its forks, and other Python processes of the tree."""
    here = str(Path(__file__).parent)
    (folder / "test").write_text("lines-0")
    (tree / "sitecustomize.py").write_text(
        f"import os, sys\nif 'WM_LINES' in os.environ:\n    sys.path.append({here!r})\n"
        "    import line_recorder\n"
        f"    line_recorder.LineRecorder({str(tree)!r}, os.environ['WM_LINES'])\n"
    )
    os.environ |= {"WM_LINES": str(folder), "PYTHONPATH": str(tree)}
    sys.path.append(here)
    from line_recorder import LineRecorder

    return LineRecorder(str(tree), str(folder))


def run_in_child(tree: Path, scratch: Path, request: dict[str, Any], pipe: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path[0:0] = [str(tree)]
    sys.dont_write_bytecode = not request["compile"]
    recorder = start_recorder(tree, Path(request["lines"])) if request["lines"] else None
    import pytest

    files = list(dict.fromkeys(test.partition("::")[0] for test in request["tests"]))
    plugin = ChosenTests(list(request["tests"]), pipe, recorder)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={tree}"]
    options += [f"--basetemp={scratch / 'base'}", *request["options"]]
    code = pytest.main([*options, *files], plugins=[plugin])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def follow_child(child: int, pipe: int, request: dict[str, Any]) -> dict[str, Any]:
    """Read the child's events until it ends, or until a test is over its limit."""
    answer: dict[str, Any] = {"seconds": {}, "outcomes": {}, "lines": {}, "collected": []}
    limits, running, left = request["tests"], None, b""
    deadline = time.monotonic() + COLLECTION_SECONDS
    ended = os.pidfd_open(child)  # its pipe may stay open in what it left running
    while True:
        rest = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([pipe, ended], [], [], rest)
        if pipe not in ready:
            os.close(ended)
            if not ready:
                answer |= {"outcome": "timeout", "test": running, "message": "over its limit"}
            return answer
        *whole, left = (left + os.read(pipe, 1 << 16)).split(b"\n")
        if not whole and not left:  # closed: it is about to end
            select.select([ended], [], [], COLLECTION_SECONDS)
            os.close(ended)
            return answer
        for event in map(json.loads, whole):
            if "collected" in event:
                answer["collected"] = event["collected"]
            elif "started" in event:
                running = event["started"]
                limit = limits.get(running, limits.get(running.partition("::")[0], 0))
                deadline = time.monotonic() + limit
                answer["lines"][running] = event.get("lines")
            elif "failed" in event:
                if "test" not in answer:
                    answer |= {"test": event["failed"], "message": event["message"]}
                    answer |= {"when": event["when"]}
                deadline = time.monotonic() + COLLECTION_SECONDS
            elif "ended" in event:
                answer["seconds"][event["ended"]] = round(event["seconds"], 3)
                answer["outcomes"][event["ended"]] = event["outcome"]


def end_children(child: int) -> int:
    """Kill the child, if it still runs, and all that it left running; return its exit status."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # of no effect on one that has exited
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    while rest := listed.read_text().split():
        for pid in map(int, rest):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return status


def serve(tree: Path, scratch: Path) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
    for name in sorted(find_imports(tree)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy the pages of all that is shared
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                run_in_child(tree, scratch, request, writing)
            finally:
                os._exit(99)
        os.close(writing)
        answer = follow_child(child, reading, request)
        status = end_children(child)
        os.close(reading)
        if "outcome" not in answer:
            known = {0: "passed", 1: "failed", 2: "failed", 5: "empty"}
            answer["outcome"] = known.get(status, "crashed")
        shutil.rmtree(scratch / "base", ignore_errors=True)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
