"""The files of configs/ and their first lines, found and read with the standard library alone."""

from __future__ import annotations

import functools
from pathlib import Path

# In a checkout beside the package; installed, in it.
PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_DIR = next(d / "configs" for d in (PACKAGE, PACKAGE.parent) if (d / "configs").is_dir())
DEFAULTS = CONFIG_DIR / "defaults.yaml"
FIRST_GROUPS = ("tasks", "algorithms", "sizes")


@functools.cache
def find_preset_files() -> dict[str, Path]:
    """The file of every preset by its bare name, whichever folder of configs/ it lies in."""
    return {f.stem: f for f in sorted(CONFIG_DIR.glob("*/*.yaml"))}


def list_presets() -> list[str]:
    """Names of all presets."""
    return sorted(find_preset_files())


def describe_presets() -> dict[str, dict[str, str]]:
    """The first line of every preset, {group: {name: line}}; a group is a folder of configs/."""
    groups: dict[str, dict[str, str]] = {group: {} for group in FIRST_GROUPS}
    for name, file in find_preset_files().items():
        groups.setdefault(file.parent.name, {})[name] = split_preset(file)[0][0]
    return {group: presets for group, presets in groups.items() if presets}


def split_preset(file: Path) -> tuple[list[str], list[str]]:
    """The lines of the comment that a preset begins with, and those of its values."""
    lines = read_lines(file)
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").strip() for line in lines[:count]] or [""], lines[count:]


def read_lines(file: Path) -> list[str]:
    """The lines of a file of configs/."""
    return file.read_text(encoding="utf-8").splitlines()
