"""Records which lines of a tree a test runs, in its own process and in those forked from it."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

IN_VAIN = 2000  # line events of a function without a new line, after which it is traced no more


class LineRecorder:
    """Appends each line of the tree's package, once a test, to the file that `folder/test` names,
    as `file:line`.
    """

    def __init__(self, tree: str, folder: str):
        self.tree, self.package = tree + os.sep, os.path.join(tree, "worldmodel", "")
        self.folder = Path(folder)
        self.missing: dict[CodeType, set[int]] = {}
        self.in_vain: dict[CodeType, int] = {}
        self.file: int | None = None
        os.register_at_fork(after_in_child=self.start_test)
        threading.settrace(self.trace_call)
        sys.settrace(self.trace_call)

    def start_test(self) -> None:
        """Count lines anew, and write them to the file of the test that runs now."""
        if self.file is not None:
            os.close(self.file)
        self.missing, self.in_vain, self.file = {}, {}, None

    def trace_call(self, frame: FrameType, event: str, argument: object):
        code = frame.f_code
        if not code.co_filename.startswith(self.package):
            return None
        missing = self.missing.get(code)
        if missing is None:
            missing = {line for *_, line in code.co_lines() if line is not None}
            self.missing[code] = missing
            self.note(code, code.co_firstlineno)
            missing.discard(code.co_firstlineno)
        return self.trace_line if missing else None

    def trace_line(self, frame: FrameType, event: str, argument: object):
        missing = self.missing.get(frame.f_code)
        if missing is None:  # another test began while this function ran
            return self.trace_call(frame, event, argument)
        if event == "line" and frame.f_lineno in missing:
            missing.discard(frame.f_lineno)
            self.note(frame.f_code, frame.f_lineno)
            self.in_vain[frame.f_code] = 0
        else:
            self.in_vain[frame.f_code] = seen = self.in_vain.get(frame.f_code, 0) + 1
            if seen > IN_VAIN:
                missing.clear()
        return self.trace_line if missing else None

    def note(self, code: CodeType, line: int) -> None:
        if self.file is None:
            name = (self.folder / "test").read_text()
            self.file = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self.file, f"{code.co_filename[len(self.tree) :]}:{line}\n".encode())


def read_lines(path: Path) -> dict[str, list[int]]:
    """The lines of each file that a test ran."""
    found: dict[str, set[int]] = {}
    for entry in path.read_text().splitlines() if path.exists() else ():
        name, _, line = entry.rpartition(":")
        found.setdefault(name, set()).add(int(line))
    return {name: sorted(lines) for name, lines in sorted(found.items())}
