"""Process-wide settings: device, number of threads, precision, memory allocator, random seeds."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from pathlib import Path

import torch

from worldmodel.config.schema import RunConfig
from worldmodel.distributed import Launch
from worldmodel.errors import UsageError
from worldmodel.system.cpu_cores import LoadMeter, count_cores

log = logging.getLogger(__name__)

# glibc's mallopt parameters. Keeping freed blocks instead of returning them to the kernel turns a
# 50 MB temporary from 12 ms into 0.5 ms; the process holds on to its peak memory in exchange.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks; with other C libraries do nothing."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        log.debug("no glibc mallopt here")


def pick_rank_device(config: RunConfig, launch: Launch) -> torch.device:
    """Pick the device of this rank: each rank of a machine has its own GPU."""
    device = pick_device(config.device)
    if launch.size == 1 or device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if launch.local_size > count:
        raise UsageError(
            f"{launch.local_size} ranks on this machine, but torch sees {count} GPUs: each rank "
            "needs one; lower --nproc-per-node, or train on the CPU with --run.device cpu"
        )
    device = torch.device(device.type, launch.local_rank)
    torch.cuda.set_device(device)
    return device


def has_spare_cores(device: torch.device, processes: int) -> bool:
    """Say whether this many training processes leave cores of the machine idle."""
    return device.type != "cpu" or torch.get_num_threads() * processes < count_cores()


def is_thread_count_given() -> bool:
    """Say whether the environment sets the number of threads."""
    return "OMP_NUM_THREADS" in os.environ


def choose_threads(configured: int, before: int | None, load: LoadMeter) -> int:
    """Choose the threads: as configured, else (0) as the run `before`, else one per idle core.

    A resumed run keeps its number of threads: another number sums in another order, rounds
    differently, and the run would not resume exactly.
    """
    if configured or is_thread_count_given():
        return configured
    if before is not None:
        return min(before, count_cores())
    busy = min(load.count_busy(), count_cores() - 1)
    if busy:
        log.info(
            "other programs keep %d of %d cores busy: threads used here, and by a run "
            "when it is resumed: %d; --run.threads or OMP_NUM_THREADS sets another number",
            busy,
            count_cores(),
            count_cores() - busy,
        )
    return count_cores() - busy


def configure_torch(threads: int) -> None:
    """Set torch's threads and matrix-product precision, and the allocator's thresholds.

    0 threads means OMP_NUM_THREADS, which torch has read by itself, else one per core.
    """
    keep_freed_memory()
    if threads or not is_thread_count_given():
        torch.set_num_threads(threads or count_cores())
    torch.set_float32_matmul_precision("high")


def pick_device(name: str) -> torch.device:
    """Turn run.device into a device; `auto` is CUDA if torch can use it."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name not in ("cpu", "cuda") and not re.fullmatch(r"cuda:\d+", name):
        raise UsageError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if name != "cpu" and not available:
        raise UsageError(f"run.device is {name}, but this torch sees no GPU; use --run.device cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """Turn run.precision into bf16 or fp32.

    `auto` is bf16 on a GPU and on processors that multiply it natively; elsewhere bf16 is slower
    than fp32.
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
    """Run matrix products and convolutions in bf16; weights, norms and losses stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


# What a run draws random numbers for, each from a seed of its own.
STREAMS = {"collect": 1, "act": 2, "prefill": 3, "replay": 4, "evaluate": 5, "resample": 6}


def make_generator(*numbers: int, device: str = "cpu") -> torch.Generator:
    """Make a generator seeded from several numbers, mixed so that neighbours do not correlate."""
    return torch.Generator(device).manual_seed(mix_seeds(*numbers))


def mix_seeds(*numbers: int) -> int:
    """Mix several numbers into one seed."""
    import numpy as np

    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]) & (2**63 - 1)
