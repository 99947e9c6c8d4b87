"""What `wm train --help` says: presets, sections, and the keys of a section, a key or a preset."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping

from worldmodel.config.key_reference import SHORT_NAMES, Key, KeySection, read_sections
from worldmodel.config.preset_files import describe_presets, find_preset_files, split_preset
from worldmodel.errors import escape_control, suggest
from worldmodel.system.console import PROGRAM, say

USAGE = """usage: {program} train [PRESET ...] [--section.key VALUE ...]

Train an agent from pixels. Presets are layered left to right over configs/defaults.yaml, and keys
over them. With a task and no preset it trains the preset generalist, without either quickstart.
The same command again resumes the run; --run.fresh true starts over. Everything is saved in
runs/<task>/<name>/seed<k>. --dry-run prints what rules choose (keys with the value auto), and
trains nothing.

{program} train --help SECTION lists the keys of a section; SECTION.KEY and PRESET work too.
"""
MORE = """examples:
  {program} train pendulum --seed 1
  {program} train laptop walker --task dmc:walker_stand --frames 200000
  {program} train --optim.lr 1e-3 --loss.objective '{{reconstruction: 1.0, inverse: 0.1}}'

Several processes, GPUs or machines: torchrun --nproc-per-node N train.py ...; docs/scaling.md.
Exit codes: 0 done, 2 a wrong setting, 3 the environment fails, 4 bad data, 5 diverged, 74 disk or
memory, 75 stopped and resumable. docs/command_line.md has all of it.
"""
MAX_COLUMN = 32  # where the words beside a name begin; beside a longer one below it


def show_help(topics: list[str]) -> int:
    """Print the help on the topics, or the overview without any; the exit code."""
    texts = [explain_topic(topic) for topic in topics] or [format_overview()]
    unknown = [topic for topic, text in zip(topics, texts, strict=False) if not text]
    for topic in unknown:
        known = [*read_sections(), *list_keys(), *find_preset_files()]
        hint = suggest(topic, known)
        shown = escape_control(topic)
        sys.stderr.write(f"no section, key or preset is called '{shown}'{hint}\n")
    if unknown:
        return 2
    say("\n\n".join(texts))
    return 0


def list_keys() -> list[str]:
    """Every key, as section.key."""
    return [f"{s.name}.{key}" for s in read_sections().values() for key in s.keys]


def explain_topic(topic: str) -> str:
    """Help on a section, a key or a preset; empty if it is none of them."""
    topic = topic.removeprefix("--")
    section, _, key = SHORT_NAMES.get(topic, topic).partition(".")
    found = read_sections().get(section)
    if found and not key:
        return format_section(found, list(found.keys.values()))
    if found and key in found.keys:
        return format_section(found, [found.keys[key]])
    if topic in find_preset_files():
        return format_preset(topic)
    return ""


def format_overview() -> str:
    """The presets by group, the short names and the sections."""
    parts = [USAGE.format(program=PROGRAM)]
    parts += format_presets()
    sections = read_sections()
    short_names = {}
    for short, full in SHORT_NAMES.items():
        section, _, key = full.partition(".")
        short_names[f"--{short} VALUE"] = f"{full}: {sections[section].keys[key].meaning}"
    parts += ["short names:", *format_rows(short_names), ""]
    parts += ["sections:", *format_rows({s.name: s.meaning for s in sections.values()}), ""]
    return "\n".join([*parts, MORE.format(program=PROGRAM).rstrip()])


def format_presets() -> list[str]:
    """The presets by group, with a line for each."""
    parts = []
    for group, presets in describe_presets().items():
        parts += [f"presets, {group}:", *format_rows(presets), ""]
    return parts


def format_section(section: KeySection, keys: list[Key]) -> str:
    """The keys of a section with default, meaning and range."""
    rows = {f"--{section.name}.{k.name} {k.default}": describe_key(k) for k in keys}
    return "\n".join([f"{section.name}: {section.meaning}", "", *format_rows(rows)])


def describe_key(key: Key) -> str:
    """A key's meaning, and its range in brackets unless the meaning names every choice."""
    named = key.choices and all(choice in key.meaning for choice in key.choices)
    return key.meaning if named else f"{key.meaning} [{key.range}]"


def format_preset(name: str) -> str:
    """A preset's comment and values."""
    comment, values = split_preset(find_preset_files()[name])
    return "\n".join([f"preset {name}:", "", *comment, "", *values])


def format_rows(rows: Mapping[str, str]) -> list[str]:
    """Names with their explanations beside them, wrapped to the terminal's width."""
    column = min(MAX_COLUMN, max(map(len, rows)) + 4)
    width = min(100, shutil.get_terminal_size((90, 24)).columns)
    lines = []
    for name, text in rows.items():
        first, *rest = textwrap.wrap(text, max(20, width - column), break_long_words=False)
        if len(name) > column - 4:
            lines.append("  " + name)
            rest = [first, *rest]
        else:
            lines.append(f"  {name:<{column - 2}}{first}")
        lines += [" " * column + line for line in rest]
    return lines
