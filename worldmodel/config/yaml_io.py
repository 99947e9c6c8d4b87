"""Untrusted YAML as plain data: bounded in size, without objects, and described in one line."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode

from worldmodel.errors import UsageError, escape_control

MAX_BYTES = 1 << 16  # the parser reads some 20 KB in a second
MAX_BITS = 63
MAX_DEPTH = 20  # the parser's time grows with the square of the depth
MERGE = "tag:yaml.org,2002:merge"
# A comment that cannot be the end of a quoted string.
COMMENT = re.compile(r"""(?:^|[ ]+)#[^"'\n]*$""", re.MULTILINE)
# YAML's own errors, and what its constructors of numbers, dates and tables let through.
UNREADABLE = (
    YAMLError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


class ConfigError(UsageError):
    """A wrong configuration; `problems` holds one line each."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class PlainComposer(Composer):
    """Refuses what can make much of a few lines: references, merge keys and deep nesting."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            name = self.parser.peek_event().anchor
            raise ValueError(f"references such as *{name} are not read: write the value again")
        if self.depth >= MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        if isinstance(node, MappingNode) and any(key.tag == MERGE for key, _ in node.value):
            raise ValueError("merge keys (<<) are not read: write the values out")
        return node


def read_yaml(
    path: Path,
    one_line_strings: bool = False,
    opener: Callable[[str, int], int] | None = None,
) -> dict[str, Any]:
    """Plain data from a YAML file; no tags, no objects, nothing larger than a configuration can
    be.

    In a file whose strings never go on in a next line, comments are cut out first: the scanner
    reads them letter by letter, which takes half the time of defaults.yaml.
    """
    with open(path, "rb", opener=opener) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ConfigError([f"{path.name}: more than {MAX_BYTES:,} bytes are no configuration"])
    try:
        decoded = text.decode()
        data = parse_yaml(COMMENT.sub("", decoded) if one_line_strings else decoded)
    except UNREADABLE as error:
        raise ConfigError(
            [f"{path.name}: not valid YAML ({' '.join(str(error).split())[:160]})"]
        ) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            [f"{path.name}: expected a table of sections, got {type(data).__name__}"]
        )
    return data


def parse_yaml(text: str) -> Any:
    """Parse YAML text to plain data; raises one of UNREADABLE."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = PlainComposer
    return yaml.load(text)


def describe_value(value: Any) -> str:
    """A value's type and beginning."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"int of {value.bit_length()} bits"
    if isinstance(value, str | int | float):
        return f"{type(value).__name__} {str(value)[:60]!r}"
    return "nothing" if value is None else f"{type(value).__name__} {reprlib.repr(value)[:60]!r}"


def format_name(key: Any) -> str:
    """A name or a choice, on one line."""
    text = str(key)[:60] if isinstance(key, str | float) or key is None else describe_value(key)
    return escape_control(" ".join(text.split()))
