"""Builds and loads the C half of this package; without a compiler everything stays with torch."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SOURCES = [
    Path(__file__).with_name(name)
    for name in (
        "common.h",
        "products.h",
        "products_bf16.h",
        "steps.c",
        "steps_fp32.c",
        "planning_step.c",
        "planning_step_fp32.c",
        "pictures.c",
        "picture_decoder.c",
        "member_mlp.c",
    )
]
FLAGS = [
    "-O3",
    "-march=native",
    "-std=c11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
]
SECONDS = 60
# partial sums of a weight's gradient: fixed, so that results don't depend on the threads
BLOCKS = 32
SMALL = 1 << 14  # numbers below which a second thread costs more than it helps


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a C function with tensors, counts and factors; the number of threads is added."""
    converted: list[ctypes._SimpleCData] = []
    most = 0
    for a in arguments:
        if isinstance(a, Tensor):
            converted.append(ctypes.c_void_p(a.data_ptr()))
            most = max(most, a.numel())
        elif a is None:
            converted.append(ctypes.c_void_p(None))
        else:
            converted.append(ctypes.c_int64(a) if isinstance(a, int) else ctypes.c_float(a))
    converted.append(ctypes.c_int(torch.get_num_threads() if most >= SMALL else 1))
    getattr(load_library(), name)(*converted)


def split_by_precision(
    x: Tensor, precision: torch.dtype = torch.bfloat16
) -> tuple[Tensor | None, Tensor | None]:
    """Two arguments, one of them None: the tensor comes first if it has this precision, and
    second if it has fp32 instead.
    """
    return (x, None) if x.dtype == precision else (None, x)


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Load the library, built on first use and kept in the user's cache; None, with a log line, if
    that fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) if hasattr(os, "geteuid") else None
    if compiler is None:
        log.info(
            "no C compiler: the steps between matrix products stay with torch, which is slower"
        )
        return None
    try:
        return _open_library(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.warning(
            "fused steps were not built (%s); torch does their work, slower",
            output[-1] if output else error,
        )
        return None


def _open_library(compiler: str) -> ctypes.CDLL:
    """Load the kept library for this source and processor; build it if it is missing or damaged.

    Without a cache it is built in a temporary folder, which is removed once it is loaded.
    """
    text = "\n".join([*(s.read_text() for s in SOURCES), compiler, *FLAGS, _describe_processor()])
    name = f"fused-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    cache = _find_cache()
    if cache is not None and _is_intact(cache / name):
        return ctypes.CDLL(str(cache / name))
    with _make_workplace(cache) as folder:
        if exposed := _find_exposed(Path(folder)):
            raise PermissionError(f"others may write {exposed}; set TMPDIR to a folder of yours")
        made = Path(folder) / name
        _build_library(compiler, made)
        if cache is not None and Path(folder).parent == cache:
            made = _keep(made, cache)
        return ctypes.CDLL(str(made))


def _build_library(compiler: str, made: Path) -> None:
    files = [str(source) for source in SOURCES if source.suffix == ".c"]
    base = [compiler, *files, "-o", str(made), *FLAGS, "-lm"]
    # Not every compiler brings OpenMP; without it the library works on one thread.
    if subprocess.run([*base, "-fopenmp"], capture_output=True, timeout=SECONDS).returncode != 0:
        subprocess.run(base, check=True, capture_output=True, text=True, timeout=SECONDS)


def _find_cache() -> Path | None:
    """The user's folder for built libraries; None if there is no home, or others may write it."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "worldmodel"
        if not base.is_absolute():
            return None
        exposed = _find_exposed(folder)
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


def _find_exposed(folder: Path) -> Path | None:
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
    import grp  # not on Windows, nor is pwd
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def _is_intact(library: Path) -> bool:
    """Whether nobody else wrote this library, and it has the sha256 that is kept beside it."""
    try:
        for path in (library, _locate_digest(library)):
            if not (_is_closed(path.lstat()) and stat.S_ISREG(path.lstat().st_mode)):
                return False
        return _locate_digest(library).read_text() == _hash_bytes(library.read_bytes())
    except (OSError, ValueError):
        return False


def _make_workplace(cache: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A private folder to build in, inside the cache if that can be written."""
    try:
        return tempfile.TemporaryDirectory(dir=cache, prefix="building-")
    except OSError:
        if cache is None:
            raise
        return tempfile.TemporaryDirectory(prefix="worldmodel-")


def _keep(library: Path, cache: Path) -> Path:
    """Move a library from its workplace inside the cache into it, with its sha256."""
    digest = _locate_digest(library)
    library.chmod(0o600)
    digest.write_text(_hash_bytes(library.read_bytes()))
    digest.chmod(0o600)
    for path in (library, digest):
        _fsync(path)
        # One rename each: two programs may build at once, and what they build is equal.
        path.replace(cache / path.name)
    _fsync(cache)
    return cache / library.name


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locate_digest(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _describe_processor() -> str:
    """The processor's features, which -march=native depends on; a home shared by several kinds of
    machines holds one library for each.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith("flags")), platform.machine())
