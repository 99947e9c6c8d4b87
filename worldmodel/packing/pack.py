"""Packing a run: the newest weights, what is needed to use them, and what to know of them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodel.checkpoint import store
from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.config import loading
from worldmodel.errors import RunError
from worldmodel.packing import file_list, golden_output, model_card
from worldmodel.packing.archive import write_archive
from worldmodel.packing.model_card import format_card
from worldmodel.run_directory import PACKED, RunDir
from worldmodel.system.files import open_regular, read_json, to_finite, write_all
from worldmodel.system.provenance import read_entries

LOGS = ("scores.jsonl", "metrics.jsonl")
RETURNS, MAX_RETURNS = "eval/returns.json", 1 << 26
ROOT = "run.root"  # a place on the machine that trained it


def pack_run(run: Any, target: Path | str, with_replay: bool = False) -> Path:
    """Pack an open run into a new directory, or a zip file if the target ends in .zip.

    `run` is anything with a path, a config, frames, an agent and its spaces. Nothing half-made is
    left behind.
    """
    target = Path(target)
    if os.path.lexists(target):
        raise RunError(f"{target} exists already; name another place, or move it away", 2)
    staging = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    archive = staging.with_name(f"{staging.name}.zip")
    new_folders = [folder for folder in target.parents if not folder.exists()]
    try:
        staging.mkdir(parents=True)
        write_packed_run(run, staging, with_replay)
        if target.suffix == ".zip":
            write_archive(staging, archive)
            archive.rename(target)
        else:
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            archive.unlink()
        with contextlib.suppress(OSError):  # of a failure; they are not empty otherwise
            for folder in new_folders:
                folder.rmdir()
    return target


def write_packed_run(run: Any, folder: Path, with_replay: bool) -> None:
    source, c = RunDir(run.path), run.config
    source.check_entries()
    write_checkpoint(source, folder, with_replay)
    shared = replace(c, run=replace(c.run, root="runs"))
    write_text(folder / "config.yaml", loading.to_yaml(shared))
    for name in LOGS:
        if (source.path / name).is_file():
            copy_file(source.path / name, folder / name)
    versions = golden_output.describe_here()
    golden_output.write_golden(run, folder)
    scores = read_scores(source.path)
    card = format_card(c, run.frames, scores, find_command(source.path), versions)
    write_text(folder / model_card.NAME, card)
    file_list.write_file_list(folder, versions)


def write_checkpoint(source: RunDir, folder: Path, with_replay: bool) -> None:
    """Write the newest checkpoint: with the replay all of it, so that training can go on."""
    saved = store.load_latest(source.checkpoints, change=False)
    if saved is None:
        raise RunError(f"{source.path} holds no checkpoint yet; train it first", 4)
    if not with_replay:
        groups = {k: v for k, v in saved.groups.items() if k in ("model", "policy")}
        state = {k: saved.state[k] for k in ("frames", "observation", "action")}
        store.save(folder / "checkpoints", saved.step, groups, state)
        status = {"state": PACKED, "frames": saved.state["frames"]}
        write_text(folder / "status.json", json.dumps(status) + "\n")
        return
    if not source.replay.is_dir():
        raise RunError(f"--replay: {source.path} has no replay", 4)
    place = Path("checkpoints") / saved.path.name
    files = [place / path.name for path in saved.path.iterdir()]
    files += [Path("replay") / path.name for path in source.replay.iterdir() if path.is_file()]
    for name in [*files, Path("status.json")]:
        copy_file(source.path / name, folder / name)


def copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(source, "rb", opener=open_regular) as file,
        open(target, "xb", opener=open_regular) as copy,
    ):
        shutil.copyfileobj(file, copy)


def write_text(path: Path, text: str) -> None:
    with open(path, "xb", buffering=0, opener=open_regular) as file:
        write_all(file.fileno(), memoryview(text.encode()))


def find_command(run: Path) -> str:
    """The command that began the training, without the place of its runs."""
    entries = read_entries(run)
    words = iter(entries[0]["words"] if entries else [])
    kept = []
    for word in words:
        if word == f"--{ROOT}":
            next(words, None)
        elif not word.startswith(f"--{ROOT}="):
            kept.append(word)
    return shlex.join(["wm", "train", *kept])


def read_scores(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """The closing evaluation of the training and that of `wm eval`, as far as there are any."""
    found: list[tuple[str, Any]] = []
    if lines := read_json_lines(run / "scores.jsonl"):
        found.append((f"during training, at {lines[-1].get('frames')} frames", lines[-1]))
    with contextlib.suppress(OSError, ValueError):
        found.append(("by `wm eval`", read_json(run / RETURNS, MAX_RETURNS)))
    return [
        (title, values)
        for title, values in found
        if isinstance(values, dict) and to_finite(values.get("eval/score")) is not None
    ]
