"""Keeps compiled libraries in the user's cache, where nobody else may put or change one."""

from __future__ import annotations

import grp
import hashlib
import logging
import os
import pwd
import stat
import tempfile
from pathlib import Path

from worldmodel.system.files import fsync_directory, read_small_file

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 26


def find_cache() -> Path | None:
    """The user's folder for built libraries; None if there is no home, or others may write it."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "worldmodel"
        if not base.is_absolute():
            return None
        exposed = find_exposed(folder)
        if exposed is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return folder
    except (OSError, RuntimeError):  # pathlib's error for a user without a home
        return None
    log.warning(
        "others may write %s, so no compiled steps are kept there: they are built at every start "
        "(chmod go-w, if it is yours)",
        exposed,
    )
    return None


def find_exposed(folder: Path) -> Path | None:
    """Return the folder, or one above it, that somebody else may write; None if there is none."""
    real = folder.resolve()
    for place in dict.fromkeys((real, *real.parents, *folder.parents)):
        if place.exists() and not _is_closed(place.stat(), place != real):
            return place
    return None


def _is_closed(found: os.stat_result, is_parent: bool = False) -> bool:
    """Whether this user and root alone may write it; in a parent, exchange what is in it."""
    # Where a user namespace hides root, the owner of / stands for it.
    if found.st_uid not in (0, os.geteuid(), Path("/").stat().st_uid):
        return False
    if is_parent and found.st_mode & stat.S_ISVTX:
        return True
    shared = stat.S_IWOTH
    if not (is_parent and _is_group_of_one(found.st_gid)):
        shared |= stat.S_IWGRP
    return not found.st_mode & shared


def _is_group_of_one(number: int) -> bool:
    """Whether it is the user's private group, which may write what is made under umask 002."""
    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def is_intact(library: Path) -> bool:
    """Whether nobody else wrote this library, and it has the sha256 that is kept beside it."""
    try:
        for path in (library, _locate_digest(library)):
            if not _is_closed(path.lstat()):
                return False
        data = read_small_file(library, MAX_BYTES)
        return read_small_file(_locate_digest(library), 64).decode() == _hash(data)
    except (OSError, ValueError):
        return False


def make_workplace(cache: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A private folder to build in, inside the cache if that can be written."""
    try:
        return tempfile.TemporaryDirectory(dir=cache, prefix="building-")
    except OSError:
        if cache is None:
            raise
        return tempfile.TemporaryDirectory(prefix="worldmodel-")


def keep(library: Path, cache: Path) -> Path:
    """Move a library from its workplace inside the cache into it, with its sha256."""
    digest = _locate_digest(library)
    library.chmod(0o600)
    digest.write_text(_hash(library.read_bytes()))
    digest.chmod(0o600)
    for path in (library, digest):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        # One rename each: two programs may build at once, and what they build is equal.
        path.replace(cache / path.name)
    fsync_directory(cache)
    return cache / library.name


def _locate_digest(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
