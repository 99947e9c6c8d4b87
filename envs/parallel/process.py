"""The parent's end of one environment process."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

from gymnasium import spaces

from ..errors import EnvSettingsError
from .worker import GRACE_S, Obs, Step, views

# importing a simulator on a busy machine is slow, and says nothing about its steps
START_TIMEOUT_S = 180.0
# Signals are meant for the parent, which closes the pipe. They are blocked while a worker starts,
# so that it lives to ignore them.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# The path comes first: until then Python would import from the folder that it was started in.
_CODE = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    f"import signal as s; numbers = {tuple(map(int, _SIGNALS))}; "
    "[s.signal(n, s.SIG_IGN) for n in numbers]; s.pthread_sigmask(s.SIG_UNBLOCK, numbers); "
    f"from {__package__}.worker import main; "
    "main(*map(int, sys.argv[1:3]))"
)


@dataclass
class Fault:
    """How an environment failed: in one line, the traceback if there is one, and the class of an
    error that the user can mend.
    """

    error: str
    trace: str = ""
    mistake: type[EnvSettingsError] | None = None


class Worker:
    """An environment process: commands and small things through a pipe, observations through
    shared memory.
    """

    def __init__(self, recipe: bytes):
        # A plain child with a program of its own: forking or spawning through multiprocessing
        # would import the caller's main module, and torch with it, in every worker. The block has
        # no name, so none can be left over.
        self.pipe, other = Pipe()
        self._block_fd = _unnamed_file()
        blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(other.fileno()), str(self._block_fd), *sys.path],
                stdin=subprocess.PIPE,  # its end tells the worker that the parent is gone
                stdout=2,  # what an environment prints must not mix with the program's own output
                pass_fds=(other.fileno(), self._block_fd),
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # Ctrl-C and signals to the group are for the parent
            )
        except BaseException:
            os.close(self._block_fd)
            self.pipe.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
            other.close()
        self._views: Obs = {}
        self.spaces: tuple[spaces.Space, spaces.Space] | None = None
        self.started = time.monotonic()
        with contextlib.suppress(OSError):  # a worker already dead shows when it is waited for
            self.pipe.send_bytes(recipe)

    def await_ready(self) -> Fault | None:
        """Wait until the environment is built; its spaces are known then."""
        if self.spaces:
            return None
        if not self.pipe.poll(max(self.started + START_TIMEOUT_S - time.monotonic(), 0.0)):
            return Fault(f"did not start in {START_TIMEOUT_S:.0f} s")
        answer = self._receive()
        if isinstance(answer, Fault):
            return answer
        self.spaces = answer[1:]
        block = mmap.mmap(self._block_fd, os.fstat(self._block_fd).st_size)
        self._views = views(block, self.spaces[0])
        return None

    def send(self, command: Any) -> Fault | None:
        """Hand a command over."""
        try:
            self.pipe.send(command)
        except OSError:
            return Fault(self._how_it_ended())
        return None

    def step(self) -> Step | Fault:
        """Return the Step that has arrived, its observations copied out of the shared block."""
        answer = self._receive()
        if isinstance(answer, Fault):
            return answer
        return Step({key: view.copy() for key, view in self._views.items()}, *answer[1:])

    def _receive(self) -> Any:
        """Return the message that has arrived, or the Fault that it or its absence means."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            return Fault(self._how_it_ended())
        return Fault(*answer[1:]) if answer[0] == "failed" else answer

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "the process closed its pipe"
        if code < 0:
            return f"the process was killed by {signal.Signals(-code).name}"
        return f"the process exited with code {code}"

    def hang_up(self) -> None:
        """Let the worker close its environment and leave."""
        self.pipe.close()

    def stop(self, deadline: float = 0.0) -> None:
        """End the process, by force once time.monotonic() passes `deadline`, and give everything
        back.
        """
        self.hang_up()
        try:
            self.process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            # The environment's own processes too, and it works on stopped ones
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self._views = {}
        if self._block_fd >= 0:
            os.close(self._block_fd)
            self._block_fd = -1


def _unnamed_file() -> int:
    """Return a descriptor of memory, or at least of a file, that vanishes with its last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
