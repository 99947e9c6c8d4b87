"""The files of one checkpoint directory, and reading them without trusting them."""

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

from worldmodel.errors import DataError
from worldmodel.system.available_memory import GB, available_memory
from worldmodel.system.files import open_regular

FORMAT = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", ".safetensors"
GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
CHECKPOINT_NAME = re.compile(r"\d{9,15}")
MAX_MANIFEST, MAX_STATE, MAX_TENSORS, MAX_HEADER = 1 << 20, 1 << 30, 1 << 35, 1 << 23
# Upper bounds on the memory that reading takes per byte of a file: tensors are copied, and JSON
# text becomes Python objects.
MEMORY_PER_TENSOR_BYTE, MEMORY_PER_JSON_BYTE = 2, 40
# These errors mean that the file is damaged; others (no permission, out of descriptors) do not
# and are raised as they are.
DAMAGE = {
    errno.ENOENT: "missing",
    errno.ELOOP: "symlink",
    errno.EISDIR: "not-a-file",
    errno.EIO: "unreadable",
}


class CheckpointError(DataError):
    """A checkpoint cannot be used; `why` becomes part of its name in quarantine."""

    def __init__(self, message: str, why: str = "damaged"):
        super().__init__(message)
        self.why = why


class UnusableCheckpoint(CheckpointError):
    """The checkpoint may be intact, so it stays in place and no older one replaces it."""


class NewerFormat(UnusableCheckpoint):
    """A later version of the program wrote the checkpoint."""


class TooLarge(UnusableCheckpoint):
    """Reading the checkpoint would take more memory than is free."""


@contextlib.contextmanager
def report_incompatible(path: Path) -> Iterator[None]:
    """Turn any error from using a checkpoint's content into a CheckpointError of one line.

    A checkpoint can be undamaged and still come from an incompatible version.
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
            raise  # the project's own errors carry their own message
        why = " ".join(str(error).split())[:200]
        what = f"lacks {why}" if isinstance(error, KeyError) else f"does not fit ({why})"
        raise CheckpointError(
            f"checkpoint {path} is undamaged but {what}: another version of the program wrote it. "
            "Nothing was changed: resume with that version, or start over with --run.fresh true, "
            "which keeps the old directory beside the new one"
        ) from error


def hash_bytes(data: bytes) -> str:
    """Return the sha256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def dump_json(value: Any, where: str = "state") -> bytes:
    """Encode a value as JSON; ValueError names the first part that would not read back equal."""
    _check_json_value(value, where)
    return json.dumps(value, allow_nan=False).encode()


def _check_json_value(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: only strings survive as JSON keys")
            _check_json_value(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json_value(item, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: JSON cannot hold it, use null")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{where} is a {type(value).__name__}: only plain JSON values can be saved"
        )


def seal_manifest(content: Mapping[str, Any]) -> bytes:
    """Encode a manifest together with its own sha256."""
    return dump_json({"content": content, "sha256": hash_bytes(dump_json(content))})


def read_manifest(path: Path) -> tuple[int, dict[str, tuple[str, int]]]:
    """Read a checkpoint's manifest: its step, and {file name: (sha256, size)}."""
    if path.is_symlink():
        raise CheckpointError(f"checkpoint {path} is a symlink", "symlink")
    raw = _read_file(path / MANIFEST, MAX_MANIFEST)
    try:
        content = json.loads(raw)["content"]
        if raw != seal_manifest(content):
            raise ValueError("its checksum does not match")
        version = content["format"]
        if version > FORMAT:
            raise NewerFormat(
                f"checkpoint {path} has format {version}: this program reads up to {FORMAT}, "
                f"update it"
            )
        if version != FORMAT:
            raise ValueError(f"format {version!r} never existed")
        files = {name: _check_entry(name, entry) for name, entry in content["files"].items()}
        step = int(content["step"])
        if STATE not in files or (CHECKPOINT_NAME.fullmatch(path.name) and int(path.name) != step):
            raise ValueError("it describes another checkpoint")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {path} has a bad manifest: {error}", "bad-manifest"
        ) from error
    return step, files


def _check_entry(name: str, entry: Mapping[str, Any]) -> tuple[str, int]:
    """Check one file's entry: the name must not be a path, and the size must be possible."""
    if name != STATE and not (
        name.endswith(TENSORS) and GROUP_NAME.fullmatch(name.removesuffix(TENSORS))
    ):
        raise ValueError(f"{name!r} is not a file name of a checkpoint")
    size, limit = entry["bytes"], MAX_STATE if name == STATE else MAX_TENSORS
    if type(size) is not int or not 0 <= size <= limit:
        raise ValueError(f"{name} cannot have {size!r} bytes")
    return str(entry["sha256"]), size


def check_memory(path: Path, files: Mapping[str, tuple[str, int]]) -> None:
    """Raise TooLarge if reading these files would need more memory than is free."""
    needed = sum(
        size * (MEMORY_PER_JSON_BYTE if name == STATE else MEMORY_PER_TENSOR_BYTE)
        for name, (_, size) in files.items()
    )
    free = available_memory()
    if needed > free:
        held = sum(size for _, size in files.values())
        raise TooLarge(
            f"checkpoint {path} has files of {held / GB:.2f} GB; reading them takes up to "
            f"{needed / GB:.2f} GB of memory, and {free / GB:.2f} GB are free. Nothing was "
            f"changed: free memory and run the same command again. If this run cannot have "
            f"written that much, move {path} away; the previous checkpoint is used then"
        )


def _read_file(path: Path, limit: int, size: int | None = None) -> bytes:
    """Read a whole regular file of exactly `size` bytes if given, and of at most `limit`."""
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
    data = _read_file(path, MAX_TENSORS, size)
    if hash_bytes(data) != sha256:
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
    """Decode a safetensors file, after checking the size of its header."""
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
