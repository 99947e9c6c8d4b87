"""Every configuration key with its default, range and meaning, with the standard library alone.

Defaults and meanings are read from the lines and comments of configs/defaults.yaml, ranges from
the schema. So help is there before a YAML parser is installed.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from worldmodel.config.preset_files import DEFAULTS, read_lines
from worldmodel.config.ranges import OneOf, Range, Time
from worldmodel.config.schema import Config

# Keys that a command line may name without their section.
SHORT_NAMES = {
    "task": "env.task",
    "seed": "run.seed",
    "frames": "run.frames",
    "name": "run.name",
}
# `name: value  # comment`, at the left edge or below a section.
LINE = re.compile(
    r"""(?P<indent>[ ]*)(?P<name>\w+):"""
    r"""(?:[ ]+(?P<value>(?:"[^"]*"|'[^']*'|[^#"'\s]|[ ](?!\ *\#))+))?"""
    r"""[ ]*(?:\#[ ]?(?P<comment>.*))?$"""
)
NOTE = re.compile(r"# (\w+): (.*)")  # at the left edge: the meaning of a key of several sections


@dataclass(frozen=True)
class Key:
    """One key as help shows it."""

    name: str
    default: str
    range: str
    choices: tuple[str, ...]
    meaning: str


@dataclass
class KeySection:
    """A section of the configuration as help shows it."""

    name: str
    meaning: str
    keys: dict[str, Key] = field(default_factory=dict)


def iterate_lines(lines: Iterable[str]) -> Iterator[tuple[str, str, str, str]]:
    """The lines (section, key, value, comment) of a configuration; the key of a section's own line
    is empty.
    """
    section = ""
    for line in lines:
        found = LINE.match(line)
        if found is None:
            continue
        value, comment = ((found[part] or "").strip() for part in ("value", "comment"))
        if not found["indent"]:
            section = found["name"]
            yield section, "", value, comment
        elif len(found["indent"]) == 2:
            yield section, found["name"], value, comment


@functools.cache
def read_sections() -> dict[str, KeySection]:
    """Every section with its keys, in the order of configs/defaults.yaml."""
    hints = get_type_hints(Config)
    above, notes = _read_notes()
    sections: dict[str, KeySection] = {}
    for name, key, value, comment in iterate_lines(read_lines(DEFAULTS)):
        if not key:
            about = (hints[name].__doc__ or "").splitlines()[0].rstrip(".")
            sections[name] = KeySection(name, comment or about[:1].lower() + about[1:])
            continue
        kinds = get_type_hints(hints[name], include_extras=True)
        choices = list_choices(kinds[key])
        if not has_words(comment, choices):
            comment = above.get((name, key)) or notes.get(key) or comment
        meaning = comment.rstrip(".")
        sections[name].keys[key] = Key(key, value, describe_type(kinds[key]), choices, meaning)
    return sections


def _read_notes() -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Comments on lines of their own: {(section, key): comment above it}, and {key: its meaning in
    the sections that follow}.
    """
    above: dict[tuple[str, str], str] = {}
    notes: dict[str, str] = {}
    section, comment, note = "", "", ""
    for line in read_lines(DEFAULTS):
        found = LINE.match(line)
        if found and not found["indent"]:
            section = found["name"]
        elif found and comment:
            above[section, found["name"]] = comment
        comment = f"{comment} {line[4:]}".strip() if line.startswith("  # ") else ""
        if begun := NOTE.match(line):
            note, notes[begun[1]] = begun[1], begun[2]
        elif note and line.startswith("#   "):
            notes[note] += " " + line[4:]
        else:
            note = ""
    return above, notes


def has_words(comment: str, choices: tuple[str, ...]) -> bool:
    """Whether a comment says more than a list of the choices, as in `auto | cpu`."""
    return not {*comment.replace("|", " ").split()} <= {*choices}


def list_choices(kind: Any) -> tuple[str, ...]:
    """The names that a key may have as its value; empty where it is free."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return tuple(map(str, args))
    if origin is Annotated and isinstance(args[1], OneOf):
        return tuple(args[1].table)
    if kind is bool:
        return ("true", "false")
    return ()


def describe_type(kind: Any) -> str:
    """What a key may be set to, in words."""
    origin, args = get_origin(kind), get_args(kind)
    choices = list_choices(kind)
    if choices:
        return " | ".join(choices)
    if origin is Annotated and isinstance(args[1], Time):
        return "a number with s, m or h"
    if origin is Annotated:
        bounds = describe_bounds(args[1])
        return f"{describe_type(args[0])}, {bounds}" if bounds else describe_type(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe_type, args))
    if origin is tuple:
        return f"a list of {len(args)}: {describe_type(args[0])}"
    if origin is list:
        return f"a list: {describe_type(args[0])}"
    if origin is dict and args[1] is Any:
        return "a table of any values"
    if origin is dict:
        return f"a table {{name: {describe_type(args[1])}}}"
    return {int: "whole number", float: "number", str: "text", type(None): "null"}[kind]


def describe_bounds(bounds: Range) -> str:
    """A range in words."""
    low, high = bounds.low, bounds.high
    if high is not None:
        return f"{low:,.10g} to {high:,.10g}"
    if low is None:
        return ""
    return "above 0" if 0 < low < 1e-9 else f"at least {low:g}"
