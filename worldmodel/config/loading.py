"""Layered configuration: defaults.yaml <- presets <- --a.b value, checked whole before torch is
imported.
"""

from __future__ import annotations

import copy
import difflib
import functools
import json
import logging
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML

from worldmodel.config.key_reference import SHORT_NAMES
from worldmodel.config.preset_files import DEFAULTS, find_preset_files
from worldmodel.config.ranges import AnyOf, OneOf, Range, Time, Width, read_seconds
from worldmodel.config.rules import AUTO, RULES, Choice, TaskFacts, UnknownTask
from worldmodel.config.schema import Config, EnvConfig, contradictions
from worldmodel.config.yaml_io import (
    MAX_BITS,
    UNREADABLE,
    ConfigError,
    describe_value,
    format_name,
    parse_yaml,
    read_yaml,
)
from worldmodel.errors import (
    CONTROL,
    MissingPackageError,
    escape_control,
    exit_code_of,
    suggest,
)

log = logging.getLogger(__name__)

SHOWN = 3  # keys that a message about a saved run names
# Keys by the names of earlier versions, which presets, commands and saved runs may still hold.
RENAMED = {"train.ratio": "train.updates_per_step", "log.tensorboard": "log.to"}


@functools.cache
def _read_defaults() -> dict[str, Any]:
    return read_yaml(DEFAULTS, one_line_strings=True)


def parse(
    argv: Sequence[str],
    check_task: Callable[[str], None] | None = None,
    describe_task: Callable[[EnvConfig], TaskFacts] | None = None,
    note: Callable[[Choice], None] = lambda choice: None,
) -> Config:
    """Command line to configuration; raises ConfigError with every problem found, `check_task`'s
    error too. MissingPackageError if all is right but a package of the task is missing.

    Rules choose where a value is `auto`, by what `describe_task` says; `note` is told.
    """
    names, overrides, problems = split_arguments(argv)
    presets = sorted(find_preset_files())
    values = copy.deepcopy(_read_defaults())
    for name in names:
        if name in values and name not in presets:
            problems.append(f"{name} is a section, no preset; train --help {name} lists its keys")
            continue
        if name not in presets:
            problems.append(
                f"unknown preset '{escape_control(name)}'{suggest(name, presets)}; there are "
                f"{', '.join(presets)}"
            )
            continue
        file = find_preset_files()[name]
        merge(values, rename_keys(read_yaml(file), f"{file.name}: "))
    for key, text in overrides:
        problem = assign(values, key, text)
        if problem:
            problems.append(problem)
    if names and "run.name" not in dict(overrides) and values["run"]["name"] == "default":
        values["run"]["name"] = "-".join(name for name in names if name in presets)
    task, missing = values["env"]["task"], ""
    if check_task and isinstance(task, str):
        try:
            check_task(task)
        except Exception as error:
            code = exit_code_of(error)
            if code is None:  # a bug
                raise
            if code == 2:
                problems.append(f"env.task: {error}")
            else:
                missing = f"env.task: {error}"
    for choice in choose_by_rules(values, None if problems or missing else describe_task):
        note(choice)
    config = build_config(values, problems)
    if missing:
        raise MissingPackageError(missing)
    return config


def choose_by_rules(
    values: dict[str, Any], describe_task: Callable[[EnvConfig], TaskFacts] | None
) -> list[Choice]:
    """Replace every `auto` that has a rule by the rule's choice; the choices in their order."""
    ruled = [key for key in RULES if get_value(values, key) == AUTO]
    if not ruled:
        return []
    problems: list[str] = []
    env = dict(_table(values, "env"))
    env["repeat"] = 1 if env.get("repeat") == AUTO else env.get("repeat")
    given = _convert(env, EnvConfig, "env", problems)
    _convert(get_value(values, "model.cnn"), list[Width], "model.cnn", problems)
    if problems:  # which the caller reports; rules read no values that are wrong
        for key in ruled:
            section, name = key.split(".")
            values[section][name] = _read_defaults()[section][name]
        return []
    facts: TaskFacts = UnknownTask()
    choices = []
    if describe_task:
        facts = describe_task(replace(given, repeat=1))
    for key in ruled:
        section, name = key.split(".")
        choices.append(RULES[key](values, facts))
        values[section][name] = choices[-1].value
    return choices


def get_value(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in plain tables; None where there is none."""
    section, name = key.split(".")
    return _table(values, section).get(name)


def load(path: Path, opener: Callable[[str, int], int] | None = None) -> Config:
    """Load the configuration of a run directory; keys that it lacks take their defaults, with a
    warning. `opener` opens the file, as that of Python's `open`.
    """
    values = copy.deepcopy(_read_defaults())
    saved = rename_keys(read_yaml(path, opener=opener), f"{path}: ")
    if "task" not in _table(saved, "env"):
        raise ConfigError([f"{path.name} is empty or cut short: it lacks env.task"])
    lacking = [
        f"{s}.{k}" for s, table in values.items() for k in table if k not in _table(saved, s)
    ]
    if lacking:
        more = f" and {len(lacking) - SHOWN} keys more" * (len(lacking) > SHOWN)
        shown = ", ".join(lacking[:SHOWN])
        log.warning("%s lacks %s%s: their defaults are taken", path, shown, more)
    merge(values, saved)
    return build_config(values, [])


def _table(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = values.get(section)
    return found if isinstance(found, Mapping) else {}


def apply_overrides(
    config: Config, pairs: Sequence[tuple[str, str]], sections: Sequence[str] = ()
) -> Config:
    """Return the configuration with overrides `(key, text)`; only of `sections`, if any are
    given.
    """
    values = to_plain(config)
    problems = []
    for key, text in pairs:
        if sections and key.split(".")[0] not in sections:
            near = difflib.get_close_matches(key.split(".")[0], sections, 1, 0.6)
            hint = f"did you mean {near[0]}.{key.partition('.')[2]}? " if near else ""
            problems.append(
                f"{key}: {hint}only keys of {', '.join(sections)} can be changed on a saved run"
            )
            continue
        problem = assign(values, key, text)
        if problem:
            problems.append(problem)
    return build_config(values, problems)


def build_config(values: Mapping[str, Any], problems: list[str]) -> Config:
    """Build a configuration from plain values; ConfigError lists their problems and earlier
    ones.
    """
    config = _convert(values, Config, "", problems)
    if not problems:
        problems.extend(contradictions(config))
    if problems:
        raise ConfigError(problems)
    return config


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Presets, (key, text) overrides and problems of a command line; `--seed` is `--run.seed`."""
    names: list[str] = []
    overrides: list[tuple[str, str]] = []
    problems: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            if not equals:
                if not rest:
                    is_known = "." in key or key in SHORT_NAMES
                    hint = "" if is_known else suggest(key, ["help", *SHORT_NAMES])
                    problems.append(f"--{escape_control(key)} needs a value{hint}")
                    break
                text = rest.pop(0)
            overrides.append((SHORT_NAMES.get(key, key), text))
        elif "=" in word:
            key, _, text = word.partition("=")
            overrides.append((SHORT_NAMES.get(key, key), text))
        elif word.startswith("-"):
            shown = escape_control(word)
            problems.append(f"unknown option '{shown}'; keys are written --section.key VALUE")
        else:
            names.append(word)
    return names, overrides, problems


def rename_keys(layer: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The layer with keys of earlier versions under their new names; says so for each."""
    found = dict(layer)
    for old, new in RENAMED.items():
        (section, key), (new_section, new_key) = old.split("."), new.split(".")
        table, target = _table(found, section), _table(found, new_section)
        if key in table and new_key not in target:
            log.warning("%s%s is now called %s", where, old, new)
            found[section] = {k: v for k, v in table.items() if k != key}
            value = _convert_old_value(old, table[key])
            found[new_section] = {**_table(found, new_section), new_key: value}
    return found


def _convert_old_value(old: str, value: Any) -> Any:
    """The value of an earlier version's key as its new name takes it."""
    if old == "log.tensorboard" and isinstance(value, bool):
        return ["tensorboard"] if value else []
    return value


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay a preset over the values, section by section; a table below a section is
    replaced whole.
    """
    for section, content in layer.items():
        if isinstance(content, dict) and isinstance(base.get(section), dict):
            base[section] = {**base[section], **content}
        else:
            base[section] = content


def assign(values: dict[str, Any], key: str, text: str) -> str | None:
    """Set one dotted key from text; returns the problem where there is one."""
    given = key
    if key in RENAMED:
        log.warning("%s is now called %s", key, RENAMED[key])
        key = RENAMED[key]
    if key in values:
        return f"unknown key '{key}': write {key}.KEY; train --help {key} lists the keys"
    parts = key.split(".")
    known = [f"{s}.{k}" for s, table in values.items() if isinstance(table, dict) for k in table]
    if len(parts) < 2 or ".".join(parts[:2]) not in known:
        return f"unknown key '{escape_control(key)}'{suggest(key, [*SHORT_NAMES, *known])}"
    if CONTROL.search(text):
        return f"{key}: no line breaks or control characters, got {ascii(text)[:80]}"
    try:
        value = _convert_old_value(given, parse_yaml(text))
    except UNREADABLE:
        return f"{key}: cannot read the value {describe_value(text)}"
    node = values[parts[0]]
    for part in parts[1:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        above = escape_control(".".join(parts[:-1]))
        return f"unknown key '{escape_control(key)}': {above} is not a table"
    node[parts[-1]] = value
    return None


def to_plain(config: Any) -> Any:
    """Dataclasses to plain tables, ready for YAML or JSON."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, tuple | list):
        return [to_plain(x) for x in config]
    return {k: to_plain(v) for k, v in config.items()} if isinstance(config, dict) else config


def to_yaml(config: Config) -> str:
    """The resolved configuration as it is written into a run directory."""
    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(to_plain(config), stream)
    return stream.getvalue()


def format_value(value: Any) -> str:
    """A plain value as it is written on a command line; `assign` reads it back."""
    if isinstance(value, str):
        try:
            plain = parse_yaml(value) == value
        except UNREADABLE:
            plain = False
        return value if plain else json.dumps(value)
    return json.dumps(to_plain(value))


def find_differences(old: Config | Mapping, new: Config | Mapping) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, of configurations or their plain tables: {key:
    (old, new)}.
    """
    a, b = to_plain(old), to_plain(new)
    return {f"{s}.{k}": (a[s][k], b[s][k]) for s in a for k in a[s] if a[s][k] != b[s][k]}


def _convert(value: Any, kind: Any, where: str, problems: list[str]) -> Any:
    """A plain value as the annotated type; appends to problems and returns None where it doesn't
    fit.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return _convert_plain(value, where, problems)
    if is_dataclass(kind):
        return _convert_table(value, kind, where, problems)
    if origin is Annotated and isinstance(args[1], AnyOf):
        return _check_names(value, list(args[1].table), where, problems)
    if origin is Annotated and isinstance(args[1], OneOf):
        return _check_name(value, list(args[1].table), where, problems)
    if origin is Annotated and isinstance(args[1], Time):
        return _check_time(value, where, problems)
    if origin is Annotated:
        number = _convert(value, args[0], where, problems)
        return _check_range(number, args[1], where, problems)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, _pick_kind(value, args), where, problems)
    if origin is Literal:
        return _check_name(value, args, where, problems)
    if origin in (list, tuple):
        return _convert_list(value, kind, where, problems)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(
                f"{where}: expected a table like {{name: value}}, got {describe_value(value)}"
            )
            return None
        return {
            _convert(k, args[0], where, problems): _convert(
                v, args[1], f"{where}.{format_name(k)}", problems
            )
            for k, v in value.items()
        }
    return _convert_scalar(value, kind, where, problems)


def _pick_kind(value: Any, kinds: Sequence[Any]) -> Any:
    """Of several types: the one for lists, tables or words if the value is one, else the first."""
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Literal:
            if isinstance(value, str):
                return kind
        elif isinstance(value, list | dict) and isinstance(value, origin or ()):
            return kind
    return next(kind for kind in kinds if kind is not type(None))


@functools.cache
def _read_hints(table: type) -> dict[str, Any]:
    """The types of a table's keys with their ranges, read once: evaluating them takes longest."""
    return get_type_hints(table, include_extras=True)


def _convert_table(value: Any, kind: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{where}: expected a table, got {describe_value(value)}")
        return None
    hints = _read_hints(kind)
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in hints:
            name = format_name(key)
            problems.append(f"unknown key '{prefix}{name}'{suggest(name, list(hints))}")
    for key in hints:
        if key not in value:
            problems.append(f"missing key '{prefix}{key}'")
    made = {
        k: _convert(value[k], hint, prefix + k, problems)
        for k, hint in hints.items()
        if k in value
    }
    return kind(**made) if len(made) == len(hints) else None


def _convert_list(value: Any, kind: Any, where: str, problems: list[str]) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if (
        not isinstance(value, list)
        or (origin is list and not value)
        or (origin is tuple and len(value) != len(args))
    ):
        wanted = f"{len(args)} values" if origin is tuple else "a list of values"
        problems.append(f"{where}: expected {wanted}, got {describe_value(value)}")
        return None
    inner = args if origin is tuple else [args[0]] * len(value)
    return origin(
        _convert(v, k, f"{where}[{i}]", problems)
        for i, (v, k) in enumerate(zip(value, inner, strict=True))
    )


def _convert_plain(value: Any, where: str, problems: list[str]) -> Any:
    """Any plain value: a table, a list, a number, a flag, a word or nothing."""
    if isinstance(value, dict):
        return {
            _convert(k, str, where, problems): _convert_plain(
                v, f"{where}.{format_name(k)}", problems
            )
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_convert_plain(v, f"{where}[{i}]", problems) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    kind = next((kind for kind in (int, float, str) if isinstance(value, kind)), str)
    return _convert_scalar(value, kind, where, problems)


def _convert_scalar(value: Any, kind: type, where: str, problems: list[str]) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        problems.append(f"{where}: expected {kind.__name__}, got {describe_value(value)}")
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():  # 1e5 frames
        value = int(value)
    if type(value) is not kind:
        problems.append(f"{where}: expected {kind.__name__}, got {describe_value(value)}")
        return None
    if isinstance(value, str) and (CONTROL.search(value) or "\t" in value):
        problems.append(f"{where}: no line breaks or control characters, got {ascii(value)[:80]}")
        return None
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{where}: expected a finite number, got {value}")
        return None
    return value


def _check_name(value: Any, names: Sequence[str], where: str, problems: list[str]) -> Any:
    if isinstance(value, str) and value in names:
        return value
    given = format_name(value)
    problems.append(f"{where}: {given!r} is not one of {', '.join(names)}{suggest(given, names)}")
    return None


def _check_names(value: Any, names: Sequence[str], where: str, problems: list[str]) -> Any:
    given = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(given, list):
        problems.append(
            f"{where}: expected names with commas between them, of {', '.join(names)}, or none; "
            f"got {describe_value(value)}"
        )
        return None
    listed = [] if given == ["none"] else given
    return list(dict.fromkeys(_check_name(name, names, where, problems) for name in listed))


def _check_time(value: Any, where: str, problems: list[str]) -> Any:
    if not read_seconds(value):
        problems.append(f"{where}: expected a time such as 30m, got {describe_value(value)}")
        return None
    return value


def _check_range(value: Any, bounds: Range, where: str, problems: list[str]) -> Any:
    if value is None:
        return None
    if (bounds.low is not None and value < bounds.low) or (
        bounds.high is not None and value > bounds.high
    ):
        low, high = bounds.low, bounds.high
        wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:.10g}"
        problems.append(f"{where}: {value} is out of range, it must be {wanted}")
    return value
