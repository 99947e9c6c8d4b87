"""`wm tasks`, `wm presets` and `wm runs`: what there is to train, and what has been trained."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from worldmodel.command_line.train_help import format_presets, format_rows
from worldmodel.programs.option_parser import OptionParser
from worldmodel.programs.saved_runs import ROOT, format_json, format_runs, list_runs
from worldmodel.system.console import PROGRAM, say

SHOWN = 12  # ids of a group without --all
OTHER = """Any other package that registers ids: gym:package:<id>. Your own class, on PYTHONPATH:
package.module:Class. Moving pictures behind any of these: distract:<task>.
{program} tasks --all lists every id of all versions; docs/environments.md explains them.
"""


def make_parser(command: str, about: str) -> OptionParser:
    return OptionParser(prog=f"{PROGRAM} {command}", description=about)


def show_runs(argv: list[str]) -> int:
    """Print a table of the runs below a folder; exit code 4 if there is no such folder."""
    parser = make_parser("runs", "List saved runs, the one that changed last first.")
    parser.add_argument(
        "root", nargs="?", type=Path, default=ROOT, metavar="ROOT", help="where to look (runs)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    args = parser.parse_words(argv)
    runs = list_runs(args.root)
    if args.json:
        say(format_json(runs))
    elif runs:
        say(format_runs(runs))
    else:
        what = "no run in" if args.root.is_dir() else "no folder"
        sys.stderr.write(f"there is {what} {args.root}; make one with {PROGRAM} train\n")
        return 4
    return 0


def show_presets(argv: list[str]) -> int:
    make_parser("presets", "List the presets of wm train, with a line for each.").parse_words(argv)
    say("\n".join(format_presets()).rstrip())
    say(f"\n{PROGRAM} train --help PRESET shows one; several are layered left to right")
    return 0


def show_tasks(argv: list[str]) -> int:
    """Print the names that env.task may have."""
    parser = make_parser("tasks", "List what wm train --task takes.")
    parser.add_argument("--all", action="store_true", help="every id that Gymnasium knows here")
    args = parser.parse_words(argv)
    from worldmodel.envs import names, packages  # Gymnasium is imported from here on

    installed = {p.module: packages.is_importable(p.module) for p in packages.PACKAGES}
    for module in [module for module, is_there in installed.items() if is_there and args.all]:
        import_module(module)  # which registers its ids
    built_in = {name: describe_module(f"worldmodel.envs.tasks.{name}") for name in names.NAMES}
    parts = ["built-in:", *format_rows(built_in), ""]
    parts += ["DeepMind Control, dmc:<domain>_<task>:", *format_rows(names.DOMAINS), ""]
    families = {family: list_ids(ids, args.all) for family, ids in group_ids(args.all).items()}
    parts += ["Gymnasium, gym:<id>:", *format_rows(families), ""]
    others = {
        p.module: f"{', '.join(f'{prefix}...' for prefix in p.prefixes)}"
        + ("" if installed[p.module] else f"; not here: pip install {p.pip} {p.describe_place()}")
        for p in packages.PACKAGES
    }
    parts += ["Packages of environments, gym:<id>:", *format_rows(others), ""]
    parts.append(OTHER.format(program=PROGRAM))
    say("\n".join(parts).rstrip())
    return 0


def describe_module(name: str) -> str:
    """The first sentence of a module's docstring."""
    about = " ".join((import_module(name).__doc__ or "").partition("\n\n")[0].split())
    return about.partition(".")[0]


def group_ids(every: bool) -> dict[str, list[str]]:
    """The ids that Gymnasium knows by the package that registers them; the newest version of each
    unless `every`.
    """
    import gymnasium

    newest: dict[tuple[str, str], int] = {}
    for spec in gymnasium.registry.values():
        name = (spec.namespace or "", spec.name)
        newest[name] = max(newest.get(name, 0), spec.version or 0)
    groups: dict[str, list[str]] = {}
    for spec in gymnasium.registry.values():
        entry = spec.entry_point or spec.vector_entry_point or ""
        module = entry if isinstance(entry, str) else entry.__module__
        parts = module.partition(":")[0].split(".")
        is_family = parts[:2] == ["gymnasium", "envs"] and len(parts) > 2
        is_newest = newest[spec.namespace or "", spec.name] == (spec.version or 0)
        if every or (is_newest and is_family and not spec.namespace) or parts[0] != "gymnasium":
            groups.setdefault(parts[2] if is_family else parts[0], []).append(spec.id)
    return groups


def list_ids(ids: list[str], every: bool) -> str:
    """The ids of a group, cut short unless `every`."""
    shown = ids if every else ids[:SHOWN]
    more = f", and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
    return ", ".join(shown) + more
