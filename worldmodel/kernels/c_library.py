"""Builds and loads the C half of this package; without a compiler everything stays with torch."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.kernels import library_cache

log = logging.getLogger(__name__)

SOURCES = [
    Path(__file__).with_name(name)
    for name in ("common.h", "steps.c", "planning_step.c", "pictures.c")
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


def split_by_precision(x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Two arguments for a tensor of either precision: bf16 in the first place, fp32 in the
    second.
    """
    return (x, None) if x.dtype == torch.bfloat16 else (None, x)


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Load the library, built on first use and kept in the user's cache; None, with a log line, if
    that fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
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
    cache = library_cache.find_cache()
    if cache is not None and library_cache.is_intact(cache / name):
        return ctypes.CDLL(str(cache / name))
    with library_cache.make_workplace(cache) as folder:
        if exposed := library_cache.find_exposed(Path(folder)):
            raise PermissionError(f"others may write {exposed}; set TMPDIR to a folder of yours")
        made = Path(folder) / name
        _build_library(compiler, made)
        if cache is not None and Path(folder).parent == cache:
            made = library_cache.keep(made, cache)
        return ctypes.CDLL(str(made))


def _build_library(compiler: str, made: Path) -> None:
    base = [compiler, *map(str, SOURCES[1:]), "-o", str(made), *FLAGS, "-lm"]
    # Not every compiler brings OpenMP; without it the library works on one thread.
    if subprocess.run([*base, "-fopenmp"], capture_output=True, timeout=SECONDS).returncode != 0:
        subprocess.run(base, check=True, capture_output=True, text=True, timeout=SECONDS)


def _describe_processor() -> str:
    """The processor's features, which -march=native depends on; a home shared by several kinds of
    machines holds one library for each.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith("flags")), platform.machine())
