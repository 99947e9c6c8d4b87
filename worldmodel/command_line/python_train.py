"""`worldmodel.train`: the training of train.py, called from Python or a notebook."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel import envs
from worldmodel.command_line.train import add_default_preset, run_session
from worldmodel.config import loading
from worldmodel.errors import RunError, UsageError
from worldmodel.system.cpu_cores import LoadMeter
from worldmodel.system.process_start import restore_signals

if TYPE_CHECKING:
    from worldmodel.saved_run import Run


def train_run(presets: tuple[str, ...], env: Any, keys: Mapping[str, Any]) -> Run:
    """Train or resume a run in this process, and open it.

    A signal stops the training: all is saved, then the signal takes effect as it did before.
    """
    words = add_default_preset([*presets, *make_words(env, keys)])
    config = loading.parse(words, envs.check_name, envs.describe_task)
    load = LoadMeter()
    from worldmodel.programs.training import open_training  # torch is imported from here on
    from worldmodel.run_directory import RunDir
    from worldmodel.saved_run import Run

    number = 0
    with keep_torch_settings():
        try:
            with restore_signals(), open_training(config, words, envs, load) as session:
                if session is not None:
                    run_session(session)
                    number = session.stop.first
        except RunError as error:
            number = error.exit_code - 128  # asked to stop before anything was begun
            if number <= 0:
                raise
        if number:
            signal.raise_signal(number)
        return Run.open(
            RunDir.for_config(config).path,
            config.run.device,
            lambda config, path: envs.make_simulator(config.env, trust=True),
        )


def make_words(env: Any, keys: Mapping[str, Any]) -> list[str]:
    """Keys and the environment as words of a command line.

    A key is dotted, a short name, or a section with a table of its keys.
    """
    if isinstance(env, Mapping):
        keys = {**keys, "env": env}
    elif env is not None:
        keys = {**keys, "env.task": env if isinstance(env, str) else name_code(env)}
    words = []
    for key, value in keys.items():
        is_section = "." not in key and isinstance(value, Mapping)
        pairs = {f"{key}.{k}": v for k, v in value.items()} if is_section else {key: value}
        words += [f"--{name}={format_word(found)}" for name, found in pairs.items()]
    return words


def format_word(value: Any) -> str:
    """A value as a command line has it; paths and NumPy's numbers are plain ones."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return loading.format_value(value.item() if isinstance(value, np.generic) else value)


def name_code(env: Any) -> str:
    """The task module:Class of a class or function; UsageError if no module has it by name."""
    module, name = getattr(env, "__module__", ""), getattr(env, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or found is not env:
        raise UsageError(
            f"env: {env!r} has no name by which it can be made again; give a class or a function "
            f"from the top level of a module, a script or a notebook"
        )
    return f"{module}:{name}"


@contextlib.contextmanager
def keep_torch_settings() -> Iterator[None]:
    """Give back the threads, precision and random numbers that a training sets for itself."""
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
