"""pack.json, the list of a packed run's files with their sizes and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.errors import DataError, escape_control
from worldmodel.system.files import open_regular, read_json

NAME = "pack.json"
FORMAT = 1
PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
FILE_NAME = re.compile(rf"{PART}(/{PART}){{0,3}}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_LIST, MOST_FILES, MAX_BYTES = 1 << 24, 100_000, 1 << 40
BLOCK = 1 << 20
REPLAY = "replay/"  # its files have checksums of their own, which their reader checks


@dataclass(frozen=True)
class ListedFile:
    sha256: str
    size: int


@dataclass(frozen=True)
class FileList:
    """The files by name, and what the run was packed with."""

    files: dict[str, ListedFile]
    versions: dict[str, str]


def is_packed(folder: Path) -> bool:
    return os.path.lexists(folder / NAME)


def write_file_list(folder: Path, versions: dict[str, str]) -> None:
    """List every file of a folder."""
    files = {
        str(path.relative_to(folder)): {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"format": FORMAT, "versions": versions, "files": files}, indent=1)
    with open(folder / NAME, "xb", opener=open_regular) as file:
        file.write(text.encode() + b"\n")


def read_file_list(folder: Path) -> FileList:
    """Read and check the list; DataError if it is none."""
    path = folder / NAME
    try:
        found = read_json(path, MAX_LIST)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r} is not supported by this version")
        files = {name: _check_entry(name, entry) for name, entry in found["files"].items()}
        versions = {str(k)[:100]: str(v)[:1000] for k, v in found["versions"].items()}
        if not 0 < len(files) <= MOST_FILES:
            raise ValueError(f"it lists {len(files)} files")
        if sum(entry.size for entry in files.values()) > MAX_BYTES:
            raise ValueError("its files are too large")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{escape_control(str(path))} is not a valid {NAME}: "
            f"{escape_control(str(error))[:200]}"
        ) from None
    return FileList(files, versions)


def _check_entry(name: str, entry: dict[str, Any]) -> ListedFile:
    check_name(name)
    size, sha256 = entry["bytes"], entry["sha256"]
    if type(size) is not int or not 0 <= size <= MAX_BYTES or not SHA256.fullmatch(sha256):
        raise ValueError(f"{name} has no size and checksum")
    return ListedFile(sha256, size)


def check_name(name: str) -> None:
    """ValueError unless the name is a plain relative path of a few folders."""
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"{ascii(name)[:120]} is not a name of a packed file")


def verify_files(folder: Path, with_replay: bool = False) -> FileList:
    """Check every file, of the replay only the sizes unless asked; DataError where one differs."""
    found = read_file_list(folder)
    for name, entry in found.files.items():
        path = folder / name
        if not os.path.lexists(path):
            raise DataError(f"{path} is missing, which {NAME} lists; copy it again")
        if not _is_intact(path, entry, with_replay or not name.startswith(REPLAY)):
            raise DataError(f"{path} is not as it was packed ({NAME}); copy it again")
    return found


def _is_intact(path: Path, entry: ListedFile, with_checksum: bool) -> bool:
    size = os.stat(path, follow_symlinks=False).st_size
    return size == entry.size and (not with_checksum or hash_file(path) == entry.sha256)


def is_complete(folder: Path) -> bool:
    """Whether every file, the replay's too, is as it was packed."""
    try:
        return not list_damaged(folder)
    except DataError:
        return False


def list_damaged(folder: Path) -> list[str]:
    """The listed files that are missing or not as they were packed."""
    damaged = []
    for name, entry in read_file_list(folder).files.items():
        with contextlib.suppress(OSError):
            if _is_intact(folder / name, entry, with_checksum=True):
                continue
        damaged.append(name)
    return damaged


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", opener=open_regular) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
