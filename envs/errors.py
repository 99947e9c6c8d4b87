"""Errors of the environments; the programs know each by its attribute `exit_code`."""

from __future__ import annotations


class EnvError(Exception):
    """An environment cannot be made or has failed."""

    exit_code = 3


class EnvSettingsError(EnvError, ValueError):
    """A name or a setting that no environment can be made from; the message says what can."""

    exit_code = 2


class MissingPackageError(EnvSettingsError):
    """A package that an environment needs is not installed; the message has the command."""

    exit_code = 3


class FixedSimulatorError(EnvSettingsError):
    """A simulator whose state cannot be set, so that nobody can plan in it."""

    exit_code = 3


class EnvDataError(EnvError, RuntimeError):
    """An environment gave or was given data of the wrong shape, dtype or value."""


class EnvFailure(EnvError, RuntimeError):
    """Environments cannot be started, or have failed more often than the restart budget allows."""
