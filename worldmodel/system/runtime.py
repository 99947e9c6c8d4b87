"""Process-wide settings: device, threads, precision, the allocator."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

import torch

from worldmodel.config.schema import RunConfig
from worldmodel.distributed import Launch
from worldmodel.system.cpu_cores import Others, cores

log = logging.getLogger(__name__)

# glibc's mallopt parameters. Keeping freed blocks instead of returning them to the kernel turns a
# 50 MB temporary from 12 ms into 0.5 ms; the process holds on to its peak memory in exchange.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks; other C libraries are left alone."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        log.debug("no glibc mallopt here")


def setup(config: RunConfig, launch: Launch) -> torch.device:
    """Choose the device, each rank of a machine one of its own."""
    device = pick_device(config.device)
    if launch.size == 1 or device.type == "cpu":
        return device
    there = torch.cuda.device_count()
    if launch.local_size > there:
        raise ValueError(
            f"{launch.local_size} ranks on this machine, but torch sees {there} of its GPUs: "
            f"each rank takes one; "
            "lower --nproc-per-node, or train on the CPU with --run.device cpu"
        )
    device = torch.device(device.type, launch.local_rank)
    torch.cuda.set_device(device)
    return device


def spare_cores(device: torch.device, processes: int) -> bool:
    """Whether so many processes that learn on this device leave cores of the machine to others."""
    return device.type != "cpu" or torch.get_num_threads() * processes < cores()


def given() -> bool:
    """Whether whoever started this process has settled the threads."""
    return "OMP_NUM_THREADS" in os.environ


def threads(wanted: int, before: int | None, others: Others) -> int:
    """How many a run uses that is left to choose, 0: what it had `before`, else a thread for each
    core that is free.

    A number once taken is kept, since sums of other parts round otherwise and a run would not
    resume exactly.
    """
    if wanted or given():
        return wanted
    if before is not None:
        return min(before, cores())
    busy = min(others.busy(), cores() - 1)
    if busy:
        log.info(
            "other programs keep %d of %d cores busy: this run takes %d of them, and keeps to "
            "that; "
            "--run.threads says otherwise",
            busy,
            cores(),
            cores() - busy,
        )
    return cores() - busy


def tune(threads: int) -> None:
    """Allocator, threads and matrix-product precision; 0 threads takes OMP_NUM_THREADS, else one
    per core available.

    Torch has read the variable by now. More threads than cores would cost twice the time and say
    nothing.
    """
    keep_freed_memory()
    if threads or not given():
        torch.set_num_threads(threads or cores())
    torch.set_float32_matmul_precision("high")


def pick_device(name: str) -> torch.device:
    """auto takes CUDA where torch can use it; asking for CUDA without one is the user's
    mistake.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "run.device: cuda was asked for, but this torch sees no GPU; use --run.device cpu"
        )
    if name == "auto":
        name = "cuda" if available else "cpu"
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """auto takes bf16 on a GPU and on processors that multiply it natively; elsewhere it would be
    slower than fp32.
    """
    if name != "auto":
        return name
    if device.type != "cpu":
        return "bf16"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "fp32"
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 for matrix products and convolutions; weights, norms and losses stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def seeded(*numbers: int, device: str = "cpu") -> torch.Generator:
    """A generator from several numbers, mixed so that neighbours don't correlate."""
    return torch.Generator(device).manual_seed(seed_of(*numbers))


def seed_of(*numbers: int) -> int:
    """One seed out of several numbers."""
    import numpy as np

    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]) & (2**63 - 1)
