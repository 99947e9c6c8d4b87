"""Packages that only some settings need: whether they are there, and how they are installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from worldmodel.errors import MissingPackageError


def require_package(module: str, user: str, otherwise: str = "") -> None:
    """Raise MissingPackageError if a package is missing that `user`, a setting, needs."""
    if find_spec(module) is None:
        raise MissingPackageError(
            f"{user} needs the package {module}, which is not installed: {sys.executable} -m pip "
            f"install {module}{otherwise}"
        )
