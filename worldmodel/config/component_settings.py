"""A component's settings, read from the source of its file, and the sections made of them.

A component that has settings declares them beside its class:

    @dataclass(frozen=True)
    class Settings:
        size: Count

Importing that file would import torch, which takes longer than refusing a wrong configuration
should. So this module compiles only the class `Settings` of it, after the file's imports from
the modules in VISIBLE. A plain attribute of `Settings` (without an annotation) states a fact about
the component; a method may check the configuration. Both see nothing but those imports. A
component with facts and no keys declares `Settings` as a plain class.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

VISIBLE = ("typing", "worldmodel.config.ranges")
DECLARED = re.compile(r"^class Settings\b.*\n(?:[ \t].*\n|\n)*", re.MULTILINE)
ROOT = Path(__file__).resolve().parents[2]


class Section:
    """A table of the configuration."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)


@cache
def read_settings(place: str) -> type | None:
    """The class `Settings` of a component at `module:Class`, or None where it has none.

    Its keys are its annotations; `join_settings` makes a dataclass of them. A component that a
    user's program adds to the registry has none, since every key stands in defaults.yaml.
    """
    module = place.partition(":")[0]
    if not module.startswith("worldmodel."):
        return None
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    declared = DECLARED.search(text)
    if declared is None:
        return None
    tree = ast.parse(text[: declared.end()], str(path))  # the rest would cost ten times as long
    settings = cast(ast.ClassDef, tree.body[-1])
    settings.decorator_list = []
    for method in ast.walk(settings):  # their annotations may name what is not visible
        if isinstance(method, ast.FunctionDef):
            method.returns = None
            for argument in method.args.args:
                argument.annotation = None
    imports = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module in VISIBLE]
    names: dict[str, Any] = {"__name__": module}
    body = ast.Module([*imports, settings], [])
    # Without inheriting `annotations`, each key's annotation becomes the type itself.
    exec(compile(body, str(path), "exec", dont_inherit=True), names)
    return names["Settings"]


def states_fact(place: str, fact: str) -> bool:
    """Whether the settings of a component state that a fact is true of it."""
    return bool(read_fact(place, fact))


def read_fact(place: str, fact: str) -> Any:
    """What the settings of a component state of it, or None where they state nothing."""
    return getattr(read_settings(place), fact, None)


def group_settings(components: Mapping[str, str]) -> dict[str, list[type]]:
    """Settings of a table's components by the section of the configuration that holds their keys:
    the `section` that the settings state, or else the component's name.
    """
    found: dict[str, list[type]] = {}
    for name, place in components.items():
        settings = read_settings(place)
        if settings is not None and settings.__annotations__:
            found.setdefault(getattr(settings, "section", name), []).append(settings)
    return found


def join_settings(name: str, parts: Sequence[type]) -> type:
    """One dataclass with the keys of all parts: sections of the program and settings as read."""
    if len(parts) == 1 and is_dataclass(parts[0]):
        return parts[0]
    keys: dict[str, Any] = {}
    for part in parts:
        if not is_dataclass(part):
            keys |= get_type_hints(part, include_extras=True)
    bases = parts if issubclass(parts[0], Section) else (*parts, Section)
    about = {"__doc__": f"The section `{name}`."}
    return make_dataclass(
        name, list(keys.items()), bases=tuple(bases), namespace=about, frozen=True, eq=False
    )
