"""Environments made by name, each a gymnasium.Env.

The programs make environments here and pass them to worldmodel. This package imports nothing of
worldmodel.
Its name is worldmodel.envs; `envs`, as a checkout's folder is called, is another name of the same.
"""

if __name__ == "envs":
    from .short_name import share_modules

    share_modules()  # before the imports, which would make each module a second time

from .errors import EnvError, EnvSettingsError
from .names import FORMS, NAMES, SUITE, TASKS, check_name, may_name_code, names_code
from .registry import (
    choose_renderer,
    describe_task,
    load_expert,
    make,
    make_factory,
    make_simulator,
    make_vector,
)

__all__ = [
    "FORMS",
    "NAMES",
    "SUITE",
    "TASKS",
    "EnvError",
    "EnvSettingsError",
    "check_name",
    "names_code",
    "may_name_code",
    "make_factory",
    "load_expert",
    "make",
    "make_simulator",
    "make_vector",
    "choose_renderer",
    "describe_task",
]
