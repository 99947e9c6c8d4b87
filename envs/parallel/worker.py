"""One environment behind commands, in this process (Stepper) or as the main program of another
(main).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
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

from ..errors import EnvSettingsError
from ..wrappers import Check

Obs = dict[str, np.ndarray]
GRACE_S = 2.0


class Command(NamedTuple):
    """What an environment does next: start an episode from a seed, or step by an action."""

    kind: Literal["reset", "step"]
    value: Any


@dataclass
class Step:
    """One row: the observation and the reward on arrival; info['fault'] is set where the
    environment failed.
    """

    obs: Obs
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool
    info: dict[str, Any] = field(default_factory=dict)


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
            return Step(self._as_dict(obs), 0.0, True, False, False, {**plain(info), "frames": 0})
        obs, reward, terminated, truncated, info = self.env.step(command.value)
        info = {"frames": 1, **plain(info)}
        return Step(
            self._as_dict(obs), float(reward), False, terminated or truncated, terminated, info
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
        if value is None or isinstance(value, (bool, int, float, str)):
            kept[key] = value
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


def main(pipe_fd: int, block_fd: int) -> None:
    """Serve commands from the pipe until it closes; observations go back through the
    shared block.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        # They are meant for the parent, which closes the pipe
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    pipe = Connection(pipe_fd)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            stepper = Stepper(pickle.loads(pipe.recv_bytes()))
        except Exception as problem:
            pipe.send(_failure(problem))
            return
        try:
            _serve(pipe, block_fd, stepper)
        finally:
            stepper.close()


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
        except Exception as problem:
            pipe.send(_failure(problem))
            return
        for key, array in arrays.items():
            array[...] = step.obs[key]
        pipe.send(("step", step.reward, step.is_first, step.is_last, step.is_terminal, step.info))


def _failure(problem: Exception) -> tuple[str, str, str, bool]:
    """Return what the parent needs to know: the error in one line, its traceback, and whether it
    is about a setting of the user's.
    """
    about_settings = isinstance(problem, EnvSettingsError)
    line = " ".join(str(problem).split()) if about_settings else describe(problem)
    return "failed", line, traceback.format_exc(), about_settings


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
    os._exit(0)
