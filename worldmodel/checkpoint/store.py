"""Atomic, verified, pickle-free checkpoints: numbered directories of safetensors and JSON under a
sealed manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from worldmodel.checkpoint.format import (
    FORMAT,
    GROUP,
    MANIFEST,
    NUMBER,
    STATE,
    TENSORS,
    CheckpointError,
    TooLarge,
    Untouched,
    check_room,
    digest,
    dump_json,
    parse_state,
    parse_tensors,
    read_manifest,
    read_verified,
    seal,
    understood,
)
from worldmodel.system import fault_injection
from worldmodel.system.files import fsync_directory, quarantine, write_all, write_with_retries

__all__ = [
    "CheckpointError",
    "Loaded",
    "check_fit",
    "latest",
    "load",
    "load_into",
    "numbered",
    "place",
    "retained_states",
    "save",
    "states",
    "understood",
]

log = logging.getLogger(__name__)

STAGING = re.compile(r"\.tmp-\d+-(\d+)")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One verified checkpoint, its tensors in memory."""

    path: Path
    step: int
    groups: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def place(directory: Path, step: int) -> Path:
    """Where checkpoint `step` lies."""
    return Path(directory) / f"{step:09d}"


def save(
    directory: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int = 3,
    retries: int = 3,
) -> Path:
    """Write checkpoint `step` so that a kill at any moment leaves the older ones whole; prune to
    the last `keep`.
    """
    directory = Path(directory)
    for group in groups:
        if not GROUP.fullmatch(group):
            raise ValueError(
                f"checkpoint group {group!r} must consist of letters, digits, '_' and '-'"
            )
    body = dump_json(state)

    def undo() -> None:
        _remove_stale(directory)

    what = f"checkpoint {step} cannot be written to {directory}; older ones are intact"
    return write_with_retries(
        lambda: _save_once(directory, step, groups, body, keep), what, retries, undo
    )


def _save_once(directory: Path, step: int, groups: Mapping, body: bytes, keep: int) -> Path:
    fault_injection.reach("start")
    directory.mkdir(parents=True, exist_ok=True)
    _remove_stale(directory)
    final = place(directory, step)
    if os.path.lexists(final) and _verifies(final):
        return final
    staging = directory / f".tmp-{step}-{os.getpid()}"
    staging.mkdir()
    fault_injection.reach("staging-created")
    files = {}
    for group, tensors in groups.items():
        data = safetensors.torch.save(_detached(tensors))
        files[group + TENSORS] = _write(staging / (group + TENSORS), data, "tensors")
    files[STATE] = _write(staging / STATE, body, "state")
    _write(staging / MANIFEST, seal({"format": FORMAT, "step": step, "files": files}), "manifest")
    fsync_directory(staging)
    fault_injection.reach("staging-synced")
    os.rename(staging, final)
    fault_injection.reach("renamed")
    fsync_directory(directory)
    fault_injection.reach("parent-synced")
    _prune(directory, final, keep)
    return final


def _verifies(path: Path) -> bool:
    """Say whether a checkpoint of the same number is sound; move it aside if it is not."""
    try:
        load(path)
    except Untouched:
        raise
    except CheckpointError as error:
        log.warning("%s; moved to %s", error, quarantine(path, "damaged"))
        return False
    return True


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies in CPU memory, none of which shares storage with another."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def _write(path: Path, data: bytes, point: str) -> dict[str, Any]:
    """Write one file durably and return its manifest entry."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        write_all(fd, view[: len(view) // 2])
        fault_injection.reach(f"{point}-torn")
        write_all(fd, view[len(view) // 2 :])
        fault_injection.reach(f"{point}-unsynced")
        os.fsync(fd)
    finally:
        os.close(fd)
    fault_injection.reach(f"{point}-written")
    return {"sha256": digest(data), "bytes": len(data)}


def _remove_stale(directory: Path) -> None:
    """Remove the staging directories of dead processes and of this one's failed attempts."""
    for path in directory.glob(".tmp-*"):
        match = STAGING.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # alive, and another user's
    return True


def _prune(directory: Path, newest: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints; a failure only costs space."""
    found = numbered(directory)
    for path in found[: max(0, len(found) - keep)]:
        if path == newest:
            continue
        # Renamed first: what has a number is always whole.
        staging = directory / f".tmp-{int(path.name)}-{os.getpid()}"
        try:
            os.rename(path, staging)
            fault_injection.reach("prune-moved")
            shutil.rmtree(staging)
        except OSError as error:
            log.warning(
                "old checkpoint %s cannot be deleted (%s): it takes space, and is tried again",
                path,
                error,
            )
    fault_injection.reach("pruned")


def numbered(directory: Path) -> list[Path]:
    """List whatever carries a checkpoint's number, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            (p for p in directory.iterdir() if NUMBER.fullmatch(p.name)), key=lambda p: int(p.name)
        )
    return []


def load(path: Path) -> Loaded:
    """Read one checkpoint directory; CheckpointError unless every byte is what was written."""
    path = Path(path)
    step, files = read_manifest(path)
    check_room(path, files)
    groups, state = {}, {}
    for name, expected in files.items():
        data = read_verified(path / name, expected)
        if name == STATE:
            state = parse_state(path / name, data)
        else:
            groups[name.removesuffix(TENSORS)] = parse_tensors(path / name, data)
    return Loaded(path, step, groups, state)


def latest(directory: Path) -> Loaded | None:
    """Load the newest sound checkpoint, moving damaged ones aside; None where there never
    was one.
    """
    directory = Path(directory)
    found = numbered(directory)
    for path in reversed(found):
        try:
            return load(path)
        except Untouched:
            raise
        except CheckpointError as error:
            log.warning(
                "%s; the checkpoint was moved to %s, the one before it is tried",
                error,
                quarantine(path, error.why),
            )
    # What an earlier start moved aside counts too: running the command again must not begin anew
    # in silence.
    aside = directory / "quarantine"
    if found or (aside.is_dir() and any(NUMBER.match(path.name) for path in aside.iterdir())):
        raise CheckpointError(
            f"every checkpoint in {directory} is damaged; start over with --run.fresh true, "
            f"which keeps this directory "
            f"beside the new one, or put an undamaged copy back from {aside}"
        )
    return None


def retained_states(directory: Path) -> list[dict[str, Any]]:
    """Return the state of every checkpoint whose state.json is sound, oldest first."""
    return [state for _, state in states(directory)][::-1]


def states(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every checkpoint whose state.json is sound, newest first, with that state; weights are not
    read.
    """
    for path in reversed(numbered(Path(directory))):
        try:
            expected = read_manifest(path)[1][STATE]
            check_room(path, {STATE: expected})
            found = parse_state(path / STATE, read_verified(path / STATE, expected))
        except TooLarge:
            raise
        except CheckpointError:
            continue
        yield path, found


def load_into(target: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy tensors into a module or a dict of tensors; nothing is copied unless all names, shapes
    and kinds fit.
    """
    wanted: Mapping[str, Tensor] = target.state_dict() if hasattr(target, "state_dict") else target
    check_fit(wanted, tensors, name)
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(tensors[key])


def check_fit(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, but: str = ""
) -> None:
    """CheckpointError unless all names, shapes and kinds are those wanted; `but` one that may be
    of any shape.
    """
    advice = "the checkpoint is as it was: use the run's own configuration, or another --run.name"
    for key, tensor in wanted.items():
        if key not in tensors:
            raise CheckpointError(
                f"{name}: the checkpoint has no tensor {key!r} of shape {tuple(tensor.shape)}; "
                f"{advice}"
            )
        found = tensors[key]
        if key == but:
            continue
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"{name}: tensor {key!r} has shape {tuple(found.shape)} in the checkpoint but "
                f"{tuple(tensor.shape)} here; {advice}"
            )
        if found.dtype != tensor.dtype and not (
            found.is_floating_point() and tensor.is_floating_point()
        ):
            raise CheckpointError(
                f"{name}: tensor {key!r} is {found.dtype} in the checkpoint but {tensor.dtype} "
                f"here; {advice}"
            )
    for key, tensor in tensors.items():
        if key not in wanted:
            raise CheckpointError(
                f"{name}: the checkpoint's tensor {key!r} of shape {tuple(tensor.shape)} fits "
                f"nothing; {advice}"
            )
