"""A function that the command line names, `package.module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from worldmodel.errors import UsageError, suggest


def load_function(option: str, name: str) -> Callable[..., Any]:
    """Import a function; UsageError in one line if there is none. The user named it: a run never
    does.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute or not all(p.isidentifier() for p in module_name.split(".")):
        raise UsageError(f"{option}: {name!r} is not of the form package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"{option}: cannot import {module_name}: {error}; its folder must be in PYTHONPATH"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UsageError(
            f"{option}: {module_name} has no function {attribute!r}{suggest(attribute, known)}"
        )
    return found
