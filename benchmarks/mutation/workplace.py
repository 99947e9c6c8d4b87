"""A copy of the tree that mutants are put into, and the process that runs its tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.mutation.operators import Mutant
from benchmarks.mutation.server import Server

ROOT = Path(__file__).resolve().parents[2]
# What the tests that matter here need of the tree.
COPIED = ("worldmodel", "envs", "configs", "tests", "benchmarks", "pyproject.toml", "*.py", "wm")
LIMIT, FACTOR = 100.0, 10.0  # a test may take this long, and this many times its recorded seconds


def copy_tree(place: Path) -> Path:
    """A copy of the working tree that mutants may be put into."""
    for pattern in COPIED:
        for source in ROOT.glob(pattern):
            ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
            if source.is_dir():
                shutil.copytree(source, place / source.name, ignore=ignored)
            else:
                shutil.copy2(source, place / source.name)
    return place


def hash_text(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


class Workplace:
    """A copy of the tree, with the process that runs its tests, in a temporary folder."""

    def __enter__(self) -> Workplace:
        self.scratch = Path(tempfile.mkdtemp(prefix="mutation-"))
        self.edits = 0
        self.tree = copy_tree(self.scratch / "tree")
        self.server = Server(self.tree, self.scratch / "tmp")
        return self

    def __exit__(self, *error) -> None:
        self.server.close()
        shutil.rmtree(self.scratch)

    def compile_all(self, files: Iterable[str]) -> None:
        """Write the bytecode of tests and of what they import, before any mutant is in place."""
        limits = dict.fromkeys(files, 0.0)
        self.server.run_tests(limits, options=["--collect-only"], compile_all=True)

    def run_tests(self, tests: dict[str, float]) -> dict[str, Any]:
        """The answer of the server for tests without a mutant, given their seconds."""
        limits = {test: LIMIT + FACTOR * seconds for test, seconds in tests.items()}
        return self.server.run_tests(limits, compile_all=True)

    def run_mutant(self, mutant: Mutant, tests: dict[str, float]) -> dict[str, Any]:
        """The answer of the server for tests that run with the mutant in place."""
        path = self.tree / mutant.path
        source, times = path.read_bytes(), path.stat()
        path.write_bytes(mutant.apply(source))
        # Bytecode is found by the time and size of its source: no two mutants have the same.
        self.edits += 1
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + self.edits * 10**10))
        try:
            return self.server.run_tests({t: LIMIT + FACTOR * s for t, s in tests.items()})
        finally:
            path.write_bytes(source)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
