"""How a program ends: one line and an exit code for the user's errors, a traceback for a bug."""

from __future__ import annotations

import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from worldmodel.envs.errors import EnvError, EnvFailure, EnvSettingsError, MissingPackageError
from worldmodel.envs.parallel.vector import make_vector

import worldmodel.distributed
import worldmodel.training.trainer  # noqa: F401  so that the whole family is known
from forked import ended, start
from worldmodel import envs
from worldmodel.checkpoint.store import CheckpointError
from worldmodel.config.loading import ConfigError
from worldmodel.errors import Diverged, RunError, UsageError, WorldModelError
from worldmodel.programs.exit_codes import run_command
from worldmodel.replay.buffer import ReplayError
from worldmodel.run_directory import RunDir
from worldmodel.system.files import WriteError


def raising(error):
    def command():
        raise error

    return command


def family(base):
    yield base
    for kind in base.__subclasses__():
        yield from family(kind)


@pytest.mark.parametrize(
    "error, code",
    [
        (UsageError("words"), 2),
        (ConfigError(["words"]), 2),
        (EnvSettingsError("words"), 2),
        (EnvFailure("words"), 3),
        (RunError("words", 3), 3),
        (CheckpointError("words"), 4),
        (ReplayError("words"), 4),
        (Diverged("words"), 5),
        (WriteError(28, "words"), 74),
        (worldmodel.distributed.RankLost("words"), 74),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_error_for_the_user_is_one_line(error, code, capsys):
    assert run_command(raising(error)) == code
    assert capsys.readouterr().err == "words\n"


def test_every_member_of_both_families_has_a_known_exit_code():
    kinds = [*family(WorldModelError), *family(EnvError)]
    codes = {kind: kind.exit_code for kind in kinds if hasattr(kind, "exit_code")}
    assert set(codes.values()) <= {2, 3, 4, 5, 74} and len(codes) > 10


def test_a_missing_package_is_one_line_though_something_is_kept(capsys):
    assert run_command(raising(MissingPackageError("words")), "\nall is kept") == 3
    assert capsys.readouterr().err == "words\n"


@pytest.mark.parametrize("bug", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug")])
def test_any_other_error_is_a_bug_and_passes_through(bug):
    with pytest.raises(type(bug), match="a bug"):
        run_command(raising(bug))


@pytest.mark.parametrize("error", [EnvFailure("words"), KeyboardInterrupt()])
def test_what_was_saved_is_said_where_the_run_is_not_to_blame(error, capsys):
    run_command(raising(error), "\nall is kept")
    assert capsys.readouterr().err.endswith("\nall is kept\n")


def test_memory_that_runs_out_is_one_line(capsys):
    assert run_command(lambda: torch.empty(1 << 50), "\nall is kept") == 74
    said = capsys.readouterr().err
    assert (
        said.startswith("out of memory")
        and "lower replay.batch" in said
        and said.endswith("\nall is kept\n")
    )


def plant_bug():
    """Let a line of the project's own raise."""
    RunDir.__init__ = raise_bug
    raise_bug.__globals__["__name__"] = "worldmodel.run_directory"


def raise_bug(*_):
    raise ValueError("a bug of ours")


@pytest.mark.parametrize("program", ["train", "eval"])
def test_an_unexpected_value_error_shows_its_traceback(program, tmp_path):
    """Raised by a line of the project's own: no user can mend it."""
    root, out, err = tmp_path / "runs", tmp_path / "out", tmp_path / "err"
    words = {"train": ["debug", "--run.root", root], "eval": [root]}[program]
    code = ended(start(program, words, out, err, before=plant_bug), err.read_text)
    said = err.read_text()
    assert code == 1, said
    assert "Traceback" in said and said.endswith("ValueError: a bug of ours\n")


class Wrong(gymnasium.Env):
    """An environment of a user's whose constructor fails."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        raise ValueError("no such level")


@pytest.mark.parametrize("count", [1, 2])
def test_an_environment_that_cannot_be_made_is_an_environments_failure(count):
    with pytest.raises(EnvFailure, match="ValueError: no such level") as failure:
        make_vector(Wrong, count)
    assert "Traceback" in str(failure.value) and failure.value.exit_code == 3


class Undrawable(gymnasium.Env):
    """An environment of a user's that finds out late what it lacks."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fails_at="render"):
        self.fails_at = fails_at
        self.need("make")

    def need(self, place):
        if place == self.fails_at:
            raise gymnasium.error.DependencyNotInstalled("run `pip install simulator`")

    def reset(self, *, seed=None, options=None):
        self.need("reset")
        return np.zeros(3, np.float32), {}

    def render(self):
        self.need("render")


@pytest.mark.parametrize("count, place", [(1, "render"), (1, "make"), (1, "reset"), (2, "render")])
def test_a_missing_package_is_said_with_its_own_exit_code(count, place, tmp_path):
    make = partial(envs.make, f"{__name__}:Undrawable", kwargs={"fails_at": place})
    with pytest.raises(MissingPackageError, match=f"{sys.executable} -m pip install") as mistake:
        make_vector(make, count)
    assert mistake.value.exit_code == 3 and "\n" not in str(mistake.value)


@pytest.mark.parametrize("count", [1, 2])
def test_a_wrong_setting_is_said_in_its_own_words(count):
    with pytest.raises(EnvSettingsError, match="^repeat must be a whole number") as mistake:
        make_vector(partial(envs.make, "catcher", repeat=0), count)
    assert mistake.value.exit_code == 2
