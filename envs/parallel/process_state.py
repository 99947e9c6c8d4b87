"""What the whole process shares, kept apart from an environment that lives in it.

An environment may seed torch, change the working directory or replace a signal handler. In a
process of its own that is its business. In the training's process it would move checkpoints,
lose the request to stop, or make the run depend on more than its seed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from _signal import getsignal  # 0.1 us; signal.getsignal takes 4
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import numpy as np

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_exit_at_once = os._exit


class Part(NamedTuple):
    """One part of the state, as functions that read and write it."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


class ProcessState:
    """The state of the process as one environment last left it, where it differs from ours."""

    def __init__(self) -> None:
        self._parts = list_parts()
        self._theirs: dict[str, Any] = {}

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Let the environment run in its own state; ours is back afterwards, however it ends.

        Signal handlers are ours also while it runs, until it replaces them.
        """
        ours = {name: part.read() for name, part in self._parts.items()}
        handlers = [getsignal(number) for number in SIGNALS]
        for name, value in self._theirs.items():
            self._parts[name].write(value)
        pid = os.getpid()
        os._exit = lambda code: _raise_exit(code, pid)  # type: ignore[assignment]
        try:
            yield
        finally:
            os._exit = _exit_at_once
            for name, part in self._parts.items():
                left = part.read()
                if left != ours[name]:
                    self._theirs[name] = left
                    part.write(ours[name])
            if threading.current_thread() is threading.main_thread():
                for number, handler in zip(SIGNALS, handlers, strict=True):
                    if getsignal(number) is not handler:
                        signal.signal(number, handler)


def _raise_exit(code: int, pid: int) -> NoReturn:
    """Raise SystemExit in this process; a child of the environment's ends at once, as it asks."""
    if os.getpid() != pid:
        _exit_at_once(code)
    raise SystemExit(code)


def list_parts() -> dict[str, Part]:
    """List the parts of the state that this project depends on."""
    parts = {
        "directory": Part(_read_directory, _write_directory),
        "streams": Part(lambda: (sys.stdout, sys.stderr), _write_streams),
        "warnings": Part(lambda: list(warnings.filters), _write_warning_filters),
        "numpy errors": Part(np.geterr, lambda value: np.seterr(**value)),
    }
    torch = sys.modules.get("torch")  # nothing here needs it where the process does not
    if torch is not None:
        parts |= {
            "torch seed": Part(
                lambda: torch.get_rng_state().numpy().tobytes(),
                lambda state: torch.set_rng_state(
                    torch.frombuffer(bytearray(state), dtype=torch.uint8)
                ),
            ),
            "torch threads": Part(torch.get_num_threads, torch.set_num_threads),
            "torch dtype": Part(torch.get_default_dtype, torch.set_default_dtype),
            "torch gradients": Part(torch.is_grad_enabled, torch.set_grad_enabled),
        }
    return parts


def _read_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted; a run with an absolute root goes on
        return ""


def _write_directory(path: str) -> None:
    if path:
        os.chdir(path)


def _write_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _write_warning_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # this makes Python read the filters again
    warnings.filters[:] = filters  # type: ignore[index]
