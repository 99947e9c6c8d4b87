"""Environments by name, all plain gymnasium.Env.

The programs use it and hand its environments to worldmodel. It knows nothing of agents and
imports nothing of worldmodel.
"""

from .errors import EnvError, EnvSettingsError
from .names import FORMS, NAMES, SUITE, TASKS, check_name
from .registry import configured, expert, make, renderer

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
    "renderer",
]
