"""The names of environments, checked without importing a simulator."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from .errors import EnvSettingsError
from .packages import is_importable

TASKS = (
    "pointmass",
    "pendulum",
    "catcher",
    "rope",
    "pushing",
    "cartpole",
    "cartpole_swingup",
    "noisy_room",
    "planar",
    "pcc_planar",
    "pcc_pendulum",
    "pcc_cartpole",
)
NAMES = (*TASKS, "counter")
DISTRACT = "distract:"
FORMS = (
    "a built-in ("
    + ", ".join(NAMES)
    + "), dmc:domain_task, gym:ID or package.module:Class, or distract: and one"
)

# The DeepMind Control suite by domain; a test compares it with the installed dm_control.
DOMAINS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse three_poles two_poles",
    "cheetah": "run",
    "dog": "fetch run stand trot walk",
    "finger": "spin turn_easy turn_hard",
    "fish": "swim upright",
    "hopper": "hop stand",
    "humanoid": "run run_pure_state stand walk",
    "humanoid_CMU": "run stand walk",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "escape fetch run walk",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer15 swimmer6",
    "walker": "run stand walk",
}
ALIASES = {
    "cup_catch": "ball_in_cup_catch",
    "cup": "ball_in_cup_catch",
    "pointmass_easy": "point_mass_easy",
}
SUITE = tuple(f"{domain}_{task}" for domain, tasks in DOMAINS.items() for task in tasks.split())


_WORD = re.compile(r"[A-Za-z0-9_-]{0,64}")


def check_name(name: str) -> None:
    """Raise EnvSettingsError unless `name` can be an environment."""
    if not isinstance(name, str):
        raise EnvSettingsError(f"an environment's name is a string, not {type(name).__name__}")
    name = name.removeprefix(DISTRACT)
    prefix, colon, rest = name.partition(":")
    if prefix == "gym" and rest:
        from . import gymnasium_adapter  # only gymnasium knows these names

        return gymnasium_adapter.check_id(rest)
    if name in NAMES or (prefix == "dmc" and (rest in SUITE or rest in ALIASES)):
        return
    if prefix == "dmc":
        known = difflib.get_close_matches(rest, SUITE, 1, 0.5)
        raise EnvSettingsError(
            f"unknown DeepMind Control task {rest!r}{_hint(['dmc:' + n for n in known])}"
        )
    dotted = colon and all(part.isidentifier() for part in [*prefix.split("."), *rest.split(".")])
    if not dotted or prefix == "gym":
        raise EnvSettingsError(f"unknown environment {name!r}{_suggest(name)}; it must be {FORMS}")
    if not is_importable(prefix.partition(".")[0]):
        raise EnvSettingsError(
            f"unknown environment {name!r}{_suggest(name)}; no module "
            f"{prefix.partition('.')[0]!r} on PYTHONPATH"
        )


def names_code(name: str) -> bool:
    """Say whether making `name` imports a module that neither this project nor Gymnasium chose."""
    plain = name.removeprefix(DISTRACT)
    prefix, _, rest = plain.partition(":")
    if prefix == "gym":
        from . import gymnasium_adapter

        return gymnasium_adapter.names_code(rest)
    return plain not in NAMES and prefix != "dmc"


def may_name_code(kwargs: Any) -> bool:
    """Say whether arguments of a constructor may name a file, a module or an address.

    Numbers, flags and single words cannot. Nobody can say what every constructor does with others.
    """
    if isinstance(kwargs, Mapping):
        return any(map(may_name_code, (*kwargs.keys(), *kwargs.values())))
    if isinstance(kwargs, list):
        return any(map(may_name_code, kwargs))
    return isinstance(kwargs, str) and not _WORD.fullmatch(kwargs)


def _suggest(name: str) -> str:
    """Return a did-you-mean over built-ins and the suite, with and without its prefix."""
    full = [*NAMES, *("dmc:" + task for task in SUITE)]
    if name in SUITE:
        return _hint(["dmc:" + name])
    if "-v" in name:
        return _hint([f"gym:{name}"])
    return _hint(difflib.get_close_matches(name, full, 1, 0.6))


def _hint(names: list[str]) -> str:
    return f", did you mean {names[0]!r}?" if names else ""
