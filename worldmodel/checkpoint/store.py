"""Saving and loading checkpoints: numbered directories of safetensors and JSON files.

Each directory has a manifest with checksums and appears under its number in one rename. No pickle.
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
    CHECKPOINT_NAME,
    FORMAT,
    GROUP_NAME,
    MANIFEST,
    STATE,
    TENSORS,
    CheckpointError,
    TooLarge,
    UnusableCheckpoint,
    check_memory,
    dump_json,
    hash_bytes,
    parse_state,
    parse_tensors,
    read_manifest,
    read_verified,
    report_incompatible,
    seal_manifest,
)
from worldmodel.system import fault_injection
from worldmodel.system.files import fsync_directory, quarantine, write_all, write_with_retries

__all__ = [
    "CheckpointError",
    "LoadedCheckpoint",
    "check_fit",
    "load_latest",
    "load",
    "load_into",
    "list_checkpoints",
    "locate",
    "read_all_states",
    "save",
    "iterate_newest",
    "iterate_states",
    "report_incompatible",
]

log = logging.getLogger(__name__)

# Modules renamed since a checkpoint was written: {group: {old beginning: new beginning}}.
RENAMED = {
    "model": {
        "rssm.": "dynamics.",
        "backdrop.picture": "mean_images.image.picture",
        "encoder.image.": "encoder.parts.image.",
        "encoder.vector.": "encoder.parts.vector.",
        "slow.copy.image.": "slow.copy.parts.image.",
        "slow.copy.vector.": "slow.copy.parts.vector.",
        "objectives.reconstruction.image.": "objectives.reconstruction.decoders.image.",
        "objectives.reconstruction.vector.": "objectives.reconstruction.decoders.vector.",
        "probe.decoder.image.": "probe.decoder.decoders.image.",
    }
}
STAGING = re.compile(r"\.tmp-\d+-(\d+)")


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """A verified checkpoint with its tensors in memory."""

    path: Path
    step: int
    groups: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def locate(directory: Path, step: int) -> Path:
    """Return the path of checkpoint `step`."""
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
    """Write checkpoint `step` atomically, then delete all but the last `keep`.

    If the process is killed at any moment, the older checkpoints stay intact.
    """
    directory = Path(directory)
    for group in groups:
        if not GROUP_NAME.fullmatch(group):
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
    final = locate(directory, step)
    if os.path.lexists(final) and _is_sound(final):
        return final
    staging = directory / f".tmp-{step}-{os.getpid()}"
    staging.mkdir()
    fault_injection.reach("staging-created")
    files = {}
    for group, tensors in groups.items():
        data = safetensors.torch.save(_copy_to_cpu(tensors))
        files[group + TENSORS] = _write(staging / (group + TENSORS), data, "tensors")
    files[STATE] = _write(staging / STATE, body, "state")
    _write(
        staging / MANIFEST,
        seal_manifest({"format": FORMAT, "step": step, "files": files}),
        "manifest",
    )
    fsync_directory(staging)
    fault_injection.reach("staging-synced")
    os.rename(staging, final)
    fault_injection.reach("renamed")
    fsync_directory(directory)
    fault_injection.reach("parent-synced")
    _prune(directory, final, keep)
    return final


def _is_sound(path: Path) -> bool:
    """Say whether the existing checkpoint is sound; quarantine it if it is damaged."""
    try:
        load(path)
    except UnusableCheckpoint:
        raise
    except CheckpointError as error:
        log.warning("%s; moved to %s", error, quarantine(path, "damaged"))
        return False
    return True


def _copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies in CPU memory that share no storage."""
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
    return {"sha256": hash_bytes(data), "bytes": len(data)}


def _remove_stale(directory: Path) -> None:
    """Remove the staging directories of dead processes and of this process's failed attempts."""
    for path in directory.glob(".tmp-*"):
        match = STAGING.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not _is_alive(int(match[1]))):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is alive and belongs to another user
    return True


def _prune(directory: Path, newest: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints; a failure is only logged."""
    found = list_checkpoints(directory)
    for path in found[: max(0, len(found) - keep)]:
        if path == newest:
            continue
        # Rename before deleting: a directory with a checkpoint's name is always complete.
        staging = directory / f".tmp-{int(path.name)}-{os.getpid()}"
        try:
            os.rename(path, staging)
            fault_injection.reach("prune-moved")
            shutil.rmtree(staging)
        except OSError as error:
            log.warning(
                "old checkpoint %s cannot be deleted (%s); the next save tries again",
                path,
                error,
            )
    fault_injection.reach("pruned")


def list_checkpoints(directory: Path) -> list[Path]:
    """List the paths that are named like a checkpoint, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            (p for p in directory.iterdir() if CHECKPOINT_NAME.fullmatch(p.name)),
            key=lambda p: int(p.name),
        )
    return []


def load(path: Path) -> LoadedCheckpoint:
    """Read one checkpoint directory; CheckpointError if any byte differs from what was written."""
    path = Path(path)
    step, files = read_manifest(path)
    check_memory(path, files)
    groups, state = {}, {}
    for name, expected in files.items():
        data = read_verified(path / name, expected)
        if name == STATE:
            state = parse_state(path / name, data)
        else:
            group = name.removesuffix(TENSORS)
            groups[group] = _rename(parse_tensors(path / name, data), RENAMED.get(group, {}))
    return LoadedCheckpoint(path, step, groups, state)


def _rename(tensors: dict[str, Tensor], renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """Give the tensors of an earlier version's checkpoint the names they have today."""
    for old, new in renamed.items():
        tensors = {new + k[len(old) :] if k.startswith(old) else k: v for k, v in tensors.items()}
    return tensors


def load_latest(directory: Path, *, change: bool = True) -> LoadedCheckpoint | None:
    """Load the newest sound checkpoint; None if there is none.

    Damaged ones are quarantined, unless nothing may be changed: a reader has no lock, and a
    training may be writing there.
    """
    directory, found = Path(directory), False
    for path in iterate_newest(directory):
        try:
            return load(path)
        except UnusableCheckpoint:
            raise
        except CheckpointError as error:
            if not os.path.lexists(path):
                continue  # a training that runs has just deleted it, and has written newer ones
            found = True
            where = f"was moved to {quarantine(path, error.why)}" if change else "was left there"
            log.warning("%s; the checkpoint %s, the previous one is tried", error, where)
    # Checkpoints that an earlier start quarantined count too: running the same command again must
    # not silently start from nothing.
    aside = directory / "quarantine"
    if found or (
        aside.is_dir() and any(CHECKPOINT_NAME.match(path.name) for path in aside.iterdir())
    ):
        raise CheckpointError(
            f"every checkpoint in {directory} is damaged; start over with --run.fresh true, "
            f"which keeps this directory beside the new one, or restore an undamaged copy"
            + f"; the damaged ones are in {aside}"
            * change
        )
    return None


def iterate_newest(directory: Path) -> Iterator[Path]:
    """Yield the newest checkpoint not yielded yet; some may appear meanwhile."""
    seen: set[Path] = set()
    while left := [path for path in list_checkpoints(directory) if path not in seen]:
        seen.add(left[-1])
        yield left[-1]


def read_all_states(directory: Path) -> list[dict[str, Any]]:
    """Return the state of every checkpoint with a sound state.json, oldest first."""
    return [state for _, state in iterate_states(directory)][::-1]


def iterate_states(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (path, state) of every checkpoint with a sound state.json, newest first.

    Weights are not read.
    """
    for path in iterate_newest(Path(directory)):
        try:
            expected = read_manifest(path)[1][STATE]
            check_memory(path, {STATE: expected})
            found = parse_state(path / STATE, read_verified(path / STATE, expected))
        except TooLarge:
            raise
        except CheckpointError:
            continue
        yield path, found


def load_into(target: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy tensors into a module or a dict of tensors.

    CheckpointError if a name, shape or dtype does not fit; nothing is copied then.
    """
    own: Mapping[str, Tensor] = target.state_dict() if hasattr(target, "state_dict") else target
    check_fit(own, tensors, name)
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(tensors[key])


def check_fit(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, any_shape: str = ""
) -> None:
    """CheckpointError unless all names, shapes and dtypes are as expected.

    The tensor named `any_shape` is exempt.
    """
    advice = "nothing was changed: use the run's own configuration, or another --run.name"
    for key, tensor in expected.items():
        if key not in tensors:
            raise CheckpointError(
                f"{name}: the checkpoint has no tensor {key!r} of shape {tuple(tensor.shape)}; "
                f"{advice}"
            )
        found = tensors[key]
        if key == any_shape:
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
        if key not in expected:
            raise CheckpointError(
                f"{name}: the checkpoint's tensor {key!r} of shape {tuple(tensor.shape)} fits "
                f"nothing; {advice}"
            )
