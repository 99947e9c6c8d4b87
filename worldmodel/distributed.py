"""Data-parallel training: the launch, and the exchanges between its ranks.

Under torchrun every process is a rank with its own environments, share of the replay and batches.
Gradients, means and flags are exchanged through a `World`, so that all ranks learn the same and
stop together. Without torchrun the world has one rank: every exchange returns its input, and
torch.distributed is never used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from worldmodel.config import loading as configs
from worldmodel.config.loading import ConfigError
from worldmodel.config.schema import Config
from worldmodel.errors import UsageError, WorldModelError, exit_code_of

T = TypeVar("T")

JOIN_SECONDS = 300  # for all ranks to connect
ANSWER_SECONDS = 1800  # for a rank that lives but does not answer; a dead one is noticed at once
REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLost(WorldModelError):
    """Another rank is dead or does not answer."""

    exit_code = 74


class MainRankFailure(WorldModelError):
    """Rank 0 failed and reports why; this rank ends silently with the same exit code."""

    def __init__(self, exit_code: int):
        super().__init__(f"rank 0 ended with exit code {exit_code}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launch:
    """The ranks as torchrun's environment variables give them; `local_` counts on this machine.

    `restarts` counts restarts by torchrun and requeues by Slurm.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Launch:
        """Read the environment; UsageError if variables are missing or contradict each other."""
        present = [name for name in ("RANK", "WORLD_SIZE") if name in env]
        if not present:
            return cls(restarts=_count_requeues(env))
        missing = [name for name in REQUIRED if not env.get(name)]
        if missing:
            raise UsageError(
                f"{present[0]} is set but {' and '.join(missing)} not: start several processes "
                "with torchrun, or unset RANK and WORLD_SIZE to train with one"
            )
        rank, size = _read_number(env, "RANK"), _read_number(env, "WORLD_SIZE")
        local = _read_number(env, "LOCAL_RANK", rank), _read_number(env, "LOCAL_WORLD_SIZE", size)
        if rank >= size or local[0] >= local[1] or local[1] > size:
            raise UsageError(
                f"RANK {rank} of WORLD_SIZE {size}, LOCAL_RANK {local[0]} of LOCAL_WORLD_SIZE "
                f"{local[1]}: ranks count from 0 to the size minus one; let torchrun set them"
            )
        return cls(
            rank,
            size,
            *local,
            _read_number(env, "TORCHELASTIC_RESTART_COUNT", 0) + _count_requeues(env),
        )


def _read_number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, not a whole number; let torchrun set it")
    return int(text)


def _count_requeues(env: Mapping[str, str]) -> int:
    """Count how often Slurm has restarted this job."""
    text = env.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else 0


def format_rank_prefix(env: Mapping[str, str]) -> str:
    """Return 'rank 1: ' to put before a message of that rank; empty without several ranks."""
    return f"rank {env['RANK']}: " if env.get("RANK") and env.get("WORLD_SIZE", "1") != "1" else ""


class World:
    """The exchanges between ranks; this base class is the world of a single process."""

    rank, size = 0, 1
    local_size = 1  # ranks on this machine

    @property
    def main(self) -> bool:
        """Say whether this rank evaluates, logs, prints and writes the common files."""
        return self.rank == 0

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in one exchange.

        A value that is not finite on one rank is not finite on any afterwards.
        """

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the ranks."""
        return x

    def cat(self, x: Tensor) -> Tensor:
        """Concatenate the entries (N,) of all ranks, in the order of the ranks."""
        return x

    def sum(self, numbers: list[int]) -> list[int]:
        """Return each number's sum over the ranks."""
        return numbers

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any rank."""
        return flag

    def wait_for_all(self) -> None:
        """Wait until all ranks have called this."""
        self.sum([0])

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's JSON value."""
        return [value]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's bytes."""
        return [data]

    def run_on_main(self, act: Callable[[], T]) -> T | None:
        """Call `act` on rank 0 while the others wait; if it fails, all ranks end.

        Returns what `act` returns, None on the other ranks.
        """
        return act()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ):
        """Wait for all ranks to leave, unless there was an error."""


ALONE = World()


class DistributedWorld(World):
    """Exchanges through torch.distributed: gloo between CPUs, NCCL between GPUs."""

    def __init__(self, launch: Launch, device: torch.device):
        import torch.distributed as dist

        self.rank, self.size, self.local_size, self._dist = (
            launch.rank,
            launch.size,
            launch.local_size,
            dist,
        )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(
                iter(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
            )
            store = dist.PrefixStore("worldmodel", store)
            own = dist.PrefixStore(_agree_on_start(store, self.rank, self.size), store)
            timeout = timedelta(seconds=ANSWER_SECONDS)
            dist.init_process_group(
                backend, store=own, rank=self.rank, world_size=self.size, timeout=timeout
            )
        except (RuntimeError, ValueError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RankLost(
                f"the {self.size} ranks did not find each other at {place} ({_shorten(error)}). "
                "Nothing was trained: check that all are started and can reach that address, "
                "then run the same command again"
            ) from error

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        """Turn a failed exchange into RankLost."""
        try:
            yield
        except RuntimeError as error:
            raise RankLost(
                f"another rank is gone ({_shorten(error)}); its own output says why. The same "
                "command resumes from the last checkpoint"
            ) from error

    def mean_(self, tensors: list[Tensor]) -> None:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        with self._exchange():
            self._dist.all_reduce(flat)
        pieces = flat.div_(self.size).split([t.numel() for t in tensors])
        torch._foreach_copy_(
            tensors, [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]
        )

    def mean(self, x: Tensor) -> Tensor:
        x = x.detach().clone()
        self.mean_([x])
        return x

    def cat(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with self._exchange():
            self._dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    def sum(self, numbers: list[int]) -> list[int]:
        # Always on the CPU: the sum need not wait for the GPU's queue.
        total = torch.tensor(numbers, dtype=torch.int64)
        with self._exchange():
            self._dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        return self.sum([int(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(data) for data in self.gather_bytes(json.dumps(value).encode())]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        sizes = self.cat(torch.tensor([len(data)])).tolist()
        padded = torch.frombuffer(bytearray(data.ljust(max(sizes))), dtype=torch.uint8)
        both = self.cat(padded).view(self.size, -1)
        return [row[:size].numpy().tobytes() for row, size in zip(both, sizes, strict=True)]

    def run_on_main(self, act: Callable[[], T]) -> T | None:
        if not self.main:
            code = self.sum([0])[0]
            if code:
                raise MainRankFailure(code)
            return None
        try:
            done = act()
        except Exception as error:
            self.sum([74 if isinstance(error, OSError) else exit_code_of(error) or 1])
            raise
        self.wait_for_all()
        return done

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ):
        # A rank that fails does not wait: its closed connections tell the others.
        if error is None:
            self.wait_for_all()
            self._dist.destroy_process_group()


def _agree_on_start(store, rank: int, size: int) -> str:
    """Agree on a name for this start that no earlier start has used.

    torchrun's store outlives a restart and still holds the addresses of dead processes. So every
    rank writes a random name, and rank 0 publishes its own together with all names it has read.
    A rank that finds its own name there takes rank 0's; rank 0 repeats until all have.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + JOIN_SECONDS
    if rank:
        store.set(f"hello/{rank}", own)
    while time.monotonic() < deadline:
        if rank:
            name, *read = json.loads(store.get("welcome"))
            if own in read:
                store.set(f"{name}/{rank}", "seen")
                return name
        else:
            store.set(
                "welcome",
                json.dumps([own, *(store.get(f"hello/{r}").decode() for r in range(1, size))]),
            )
            if store.check([f"{own}/{r}" for r in range(1, size)]):
                return own
        time.sleep(0.02)
    raise RuntimeError(f"not all connected within {JOIN_SECONDS} s")


def join_ranks(launch: Launch, device: torch.device) -> World:
    """Connect to the other ranks, if there are any."""
    return ALONE if launch.size == 1 else DistributedWorld(launch, device)


def check_same_config(world: World, c: Config) -> None:
    """Check that all ranks have the same configuration; otherwise all end with exit code 2."""
    configurations = world.gather(configs.to_plain(c)) if world.size > 1 else []
    for rank, own in enumerate(configurations):
        different = configs.find_differences(configurations[0], own)
        if different and not world.main:
            raise MainRankFailure(2)
        if different:
            shown = "; ".join(
                f"{key} {first} -> {other}" for key, (first, other) in different.items()
            )
            raise ConfigError(
                [f"rank {rank} was started with another configuration than rank 0: {shown}"]
            )


def _shorten(error: Exception) -> str:
    """Return the first sentence of a library's message, without the source location."""
    return (
        re.sub(r"^(\[[^\]]*\] *)+", "", str(error).splitlines()[0])
        .split(". ")[0]
        .rstrip(".")[:160]
    )
