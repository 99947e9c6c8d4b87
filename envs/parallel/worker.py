"""One environment behind commands, in this process (Stepper) or as the main program of another
(main).
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import mmap
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from ..errors import EnvError, EnvSettingsError, MissingPackageError
from ..wrappers import Check, count_frames

Obs = dict[str, np.ndarray]
GRACE_S = 2.0

log = logging.getLogger(__name__)


class Command(NamedTuple):
    """What an environment does next: start an episode from a seed, or step by an action."""

    kind: Literal["reset", "step"]
    value: Any


@dataclass
class Step:
    """One row: the observation and the reward on arrival.

    `info` is the environment's own, `frames` the control steps that the step took, and `fault`
    the line that says how the environment failed.
    """

    obs: Obs
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool
    info: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    fault: str = ""


class Stepper:
    """Builds an environment and turns commands into Steps."""

    def __init__(self, make_fn: Callable[[], gymnasium.Env]):
        env = make_fn()
        self.env = env if isinstance(env, Check) else Check(env)
        self.key = self._only_key(self.env.observation_space)

    @property
    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        """Return the observation and the action space."""
        return self.env.observation_space, self.env.action_space

    def apply(self, command: Command) -> Step:
        """Carry out a command; an episode is a function of its seed and the actions after it."""
        if command.kind == "reset":
            obs, info = self.env.reset(seed=command.value)
            return Step(self._as_dict(obs), 0.0, True, False, False, plain(info))
        obs, reward, terminated, truncated, info = self.env.step(command.value)
        return Step(
            self._as_dict(obs),
            reward,
            False,
            terminated or truncated,
            terminated,
            plain(info),
            count_frames(self.env),
        )

    def close(self) -> None:
        self.env.close()

    def _as_dict(self, obs: Any) -> Obs:
        return {self.key: obs} if self.key else obs

    @staticmethod
    def _only_key(space: gymnasium.Space) -> str:
        """Return the name of an observation that is not a dict yet, empty where it is one."""
        if isinstance(space, spaces.Dict):
            return ""
        return "image" if space.dtype == np.uint8 else "vector"


def plain(info: dict[str, Any]) -> dict[str, Any]:
    """Keep of an info what is a number, a flag or a word: it crosses processes and ends
    in logs.
    """
    kept = {}
    for key, value in info.items():
        if isinstance(value, np.generic):
            value = value.item()
        kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
        if type(key) is str and (kind or value is None):
            kept[key] = kind(value) if kind else None  # an enum's class may not cross processes
    return kept


def layout(space: spaces.Space) -> tuple[dict[str, tuple[int, tuple[int, ...], np.dtype]], int]:
    """Return where each observation lies in the shared block, as {key: (offset, shape, dtype)},
    and its size.
    """
    key = Stepper._only_key(space)
    parts = {key: space} if key else dict(space.items())  # type: ignore[attr-defined]
    places, offset = {}, 0
    for name, part in parts.items():
        assert part.shape is not None and part.dtype is not None
        places[name] = (offset, part.shape, np.dtype(part.dtype))
        offset += -(-int(np.prod(part.shape)) * np.dtype(part.dtype).itemsize // 64) * 64
    return places, offset


def views(block: mmap.mmap, space: spaces.Space) -> Obs:
    """Return the arrays that lie in the shared block."""
    return {
        k: np.ndarray(shape, dtype, block, offset)
        for k, (offset, shape, dtype) in layout(space)[0].items()
    }


class _LossyFile(io.FileIO):
    """Where an environment prints; what nobody can read any more is lost."""

    def write(self, data) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError:
            return size
        return size if written is None else written  # None: it would block


def main(pipe_fd: int, block_fd: int) -> None:
    """Serve commands from the pipe until it closes; observations go back through the
    shared block.
    """
    atexit.register(_end_group)  # the first to be registered is the last to be called
    output = io.BufferedWriter(_LossyFile(2, "w", closefd=False))
    sys.stdout = sys.stderr = io.TextIOWrapper(
        output, errors="backslashreplace", line_buffering=True
    )
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    pipe = Connection(pipe_fd)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            stepper = Stepper(pickle.loads(pipe.recv_bytes()))
        except BaseException as problem:
            pipe.send(("failed", *describe_failure(problem)))
            return
        try:
            _serve(pipe, block_fd, stepper)
        finally:
            _close(stepper)


def _serve(pipe: Connection, block_fd: int, stepper: Stepper) -> None:
    space = stepper.spaces[0]
    size = layout(space)[1]
    os.ftruncate(block_fd, size)
    arrays = views(mmap.mmap(block_fd, size), space)
    pipe.send(("ready", *stepper.spaces))
    while True:
        command = pipe.recv()
        try:
            step = stepper.apply(command)
        except BaseException as problem:
            pipe.send(("failed", *describe_failure(problem)))
            return
        for key, array in arrays.items():
            array[...] = step.obs[key]
        fields = (step.reward, step.is_first, step.is_last, step.is_terminal)
        pipe.send(("step", *fields, step.info, step.frames))


def _close(stepper: Stepper) -> None:
    try:
        stepper.close()
    except BaseException as problem:
        log.warning("an env worker, closing: %s", describe(problem))


def describe_failure(
    problem: BaseException,
) -> tuple[str, str, type[EnvSettingsError] | None]:
    """Return what the parent needs to know: the error in one line, its traceback, and its class
    if the user can mend it.

    The errors of this package say all that there is to know without a traceback.
    """
    kinds = (MissingPackageError, EnvSettingsError)
    mistake = next((kind for kind in kinds if isinstance(problem, kind)), None)
    line = " ".join(str(problem).split()) if mistake else describe(problem)
    trace = "" if isinstance(problem, EnvError) else "".join(traceback.format_exception(problem))
    return line, trace, mistake


def describe(problem: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _leave_with_parent() -> None:
    """Exit once standard input closes, even if the environment hangs: the parent holds its other
    end.
    """
    while os.read(0, 1):
        pass
    time.sleep(GRACE_S)  # the main loop sees its pipe close too and is let finish
    _end_group()


def _end_group() -> None:
    """End this process and all that the environment has started in it.

    A worker leads a process group of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # an environment may have put anything there
            stream.flush()
    os.killpg(os.getpid(), signal.SIGKILL)
