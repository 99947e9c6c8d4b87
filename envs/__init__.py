"""Environments made by name, each a gymnasium.Env.

The programs make environments here and pass them to worldmodel. This package imports nothing of
worldmodel.
"""

from .errors import EnvError, EnvSettingsError
from .names import FORMS, NAMES, SUITE, TASKS, check_name
from .registry import configured, expert, make, make_vector, renderer

__all__ = [
    "FORMS",
    "NAMES",
    "SUITE",
    "TASKS",
    "EnvError",
    "EnvSettingsError",
    "check_name",
    "configured",
    "expert",
    "make",
    "make_vector",
    "renderer",
]
