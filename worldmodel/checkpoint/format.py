"""What lies in one checkpoint directory, and how it is read when nothing in it can be trusted."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from worldmodel.system.available_memory import GB, available_memory
from worldmodel.system.files import open_regular

FORMAT = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", ".safetensors"
GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
NUMBER = re.compile(r"\d{9,15}")
MAX_MANIFEST, MAX_STATE, MAX_TENSORS, MAX_HEADER = 1 << 20, 1 << 30, 1 << 35, 1 << 23
# Memory that reading takes at most, for each byte of a file: tensors are copied out of it, JSON
# becomes objects.
COPIES, OBJECTS = 2, 40
# Anything else (no permission, out of descriptors) says nothing about the file and is passed on.
DAMAGE = {
    errno.ENOENT: "missing",
    errno.ELOOP: "symlink",
    errno.EISDIR: "not-a-file",
    errno.EIO: "unreadable",
}


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used (exit code 4); `why` is a word for the name it is quarantined
    under.
    """

    exit_code = 4

    def __init__(self, message: str, why: str = "damaged"):
        """Keep the word beside the message."""
        super().__init__(message)
        self.why = why


class Untouched(CheckpointError):
    """Nothing says that the checkpoint is damaged: it is left where it is, and none is tried in
    its place.
    """


class NewerFormat(Untouched):
    """The checkpoint is sound but a later version of the program wrote it."""


class TooLarge(Untouched):
    """The checkpoint claims more than this machine can read now."""


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """What a sound checkpoint holds may still be an older program's, or nobody's: one line says
    what does not fit.
    """
    try:
        yield
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # says itself what it is
        why = " ".join(str(error).split())[:200]
        what = f"lacks {why}" if isinstance(error, KeyError) else f"does not fit ({why})"
        raise CheckpointError(
            f"checkpoint {path} is whole but {what}: this version of the program did not write "
            f"it. Nothing was "
            "changed: go on with the version that did, or start over with --run.fresh true, "
            "which keeps the old "
            "directory beside the new one"
        ) from error


def digest(data: bytes) -> str:
    """Return the sha256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def dump_json(value: Any, where: str = "state") -> bytes:
    """Encode plain values as JSON that reads back equal; ValueError names the first value that
    would not.
    """
    _check_plain(value, where)
    return json.dumps(value, allow_nan=False).encode()


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: only strings survive as JSON keys")
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: JSON cannot hold it, use null")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{where} is a {type(value).__name__}: only plain JSON values can be saved"
        )


def seal(content: Mapping[str, Any]) -> bytes:
    """Encode a manifest together with its own sha256."""
    return dump_json({"content": content, "sha256": digest(dump_json(content))})


def read_manifest(path: Path) -> tuple[int, dict[str, tuple[str, int]]]:
    """Read a checkpoint's manifest: its step, and the sha256 and size of each file."""
    if path.is_symlink():
        raise CheckpointError(f"checkpoint {path} is a symlink", "symlink")
    raw = _read(path / MANIFEST, MAX_MANIFEST)
    try:
        content = json.loads(raw)["content"]
        if raw != seal(content):
            raise ValueError("its checksum does not match")
        version = content["format"]
        if version > FORMAT:
            raise NewerFormat(
                f"checkpoint {path} has format {version}: this program reads up to {FORMAT}, "
                f"update it"
            )
        if version != FORMAT:
            raise ValueError(f"format {version!r} never existed")
        files = {name: _entry(name, entry) for name, entry in content["files"].items()}
        step = int(content["step"])
        if STATE not in files or (NUMBER.fullmatch(path.name) and int(path.name) != step):
            raise ValueError("it describes another checkpoint")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {path} has a bad manifest: {error}", "bad-manifest"
        ) from error
    return step, files


def _entry(name: str, entry: Mapping[str, Any]) -> tuple[str, int]:
    """Check one file's entry: a name that is no path, and a size that is possible."""
    if name != STATE and not (
        name.endswith(TENSORS) and GROUP.fullmatch(name.removesuffix(TENSORS))
    ):
        raise ValueError(f"{name!r} is not a file name of a checkpoint")
    size, limit = entry["bytes"], MAX_STATE if name == STATE else MAX_TENSORS
    if type(size) is not int or not 0 <= size <= limit:
        raise ValueError(f"{name} cannot have {size!r} bytes")
    return str(entry["sha256"]), size


def check_room(path: Path, files: Mapping[str, tuple[str, int]]) -> None:
    """TooLarge, before anything is allocated, where these files of a checkpoint would take more
    memory than is free.
    """
    needed = sum(
        size * (OBJECTS if name == STATE else COPIES) for name, (_, size) in files.items()
    )
    free = available_memory()
    if needed > free:
        held = sum(size for _, size in files.values())
        raise TooLarge(
            f"checkpoint {path} has files of {held / GB:.2f} GB; reading them takes up to "
            f"{needed / GB:.2f} GB of "
            f"memory, and {free / GB:.2f} GB are free. Nothing was changed: make room and give "
            f"the same command "
            f"again; if this run cannot have written that much, move {path} away, and the one "
            f"before it is taken"
        )


def _read(path: Path, limit: int, size: int | None = None) -> bytes:
    """Read a regular file whole, of exactly `size` bytes where that is known; nothing larger is
    allocated.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found > limit or size not in (None, found):
                raise CheckpointError(
                    f"{path} has {found:,} bytes where {size or limit:,} are expected",
                    "wrong-size",
                )
            return file.read(found)
    except OSError as error:
        if error.errno not in DAMAGE and not isinstance(
            error, IsADirectoryError | NotADirectoryError
        ):
            raise
        why = DAMAGE.get(error.errno or 0, "not-a-file")
        raise CheckpointError(f"{path} is {why.replace('-', ' ')}", why) from error


def read_verified(path: Path, expected: tuple[str, int]) -> bytes:
    """Read a file that must match its manifest entry."""
    sha256, size = expected
    data = _read(path, MAX_TENSORS, size)
    if digest(data) != sha256:
        raise CheckpointError(f"{path} does not match its sha256", "bad-sha256")
    return data


def parse_state(path: Path, data: bytes) -> dict[str, Any]:
    """Decode state.json."""
    try:
        state = json.loads(data)
        if not isinstance(state, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", "bad-state") from error
    return state


def parse_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """Decode a safetensors file, its header's size checked first."""
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(len(data) - 8, MAX_HEADER):
        raise CheckpointError(
            f"{path} claims a header of {header:,} bytes in a file of {len(data):,}", "bad-header"
        )
    try:
        return safetensors.torch.load(data)
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: {error}", "bad-tensors"
        ) from error
