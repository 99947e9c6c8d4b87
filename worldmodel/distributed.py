"""Several processes that train one agent, and the few things they tell each other.

Under torchrun every process is a rank, with environments, a share of the replay and batches of its
own. What they learn and when they stop is agreed on: gradients, means and flags pass through a
`World`. A run without torchrun is a world of one, where every exchange gives back what was put in
and torch.distributed is never touched.
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

T = TypeVar("T")

JOIN_S = 300  # to find each other
ANSWER_S = 1800  # for a rank that lives and says nothing; a dead one is noticed at once
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Lost(RuntimeError):
    """Another rank is gone or silent (exit code 74)."""

    exit_code = 74


class Ended(RuntimeError):
    """Rank 0 was refused something and says why; this rank ends in silence, with the same exit
    code.
    """

    def __init__(self, exit_code: int):
        super().__init__(f"rank 0 ended with exit code {exit_code}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launch:
    """What torchrun says in the environment; `local_` is about this machine alone.

    `restarts` counts those of torchrun and how often Slurm has put the job back into its queue.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Launch:
        """ValueError where only half of it is there or it makes no sense."""
        said = [name for name in ("RANK", "WORLD_SIZE") if name in env]
        if not said:
            return cls(restarts=_requeued(env))
        lacking = [name for name in NEEDED if not env.get(name)]
        if lacking:
            raise ValueError(
                f"{said[0]} is set but {' and '.join(lacking)} not: start several processes "
                f"with torchrun, or unset "
                "RANK and WORLD_SIZE to train alone"
            )
        rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
        local = _number(env, "LOCAL_RANK", rank), _number(env, "LOCAL_WORLD_SIZE", size)
        if rank >= size or local[0] >= local[1] or local[1] > size:
            raise ValueError(
                f"RANK {rank} of WORLD_SIZE {size}, LOCAL_RANK {local[0]} of LOCAL_WORLD_SIZE "
                f"{local[1]}: "
                "ranks count from 0 and end below the size; let torchrun set them"
            )
        return cls(
            rank, size, *local, _number(env, "TORCHELASTIC_RESTART_COUNT", 0) + _requeued(env)
        )


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ValueError(f"{name} is {text!r}, not a whole number; let torchrun set it")
    return int(text)


def _requeued(env: Mapping[str, str]) -> int:
    """How often Slurm has started this job anew."""
    text = env.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else 0


def speaker(env: Mapping[str, str]) -> str:
    """What stands before a warning or an error, so that one knows whose it is: 'rank 1: ', nothing
    in a run alone.
    """
    return f"rank {env['RANK']}: " if env.get("RANK") and env.get("WORLD_SIZE", "1") != "1" else ""


class World:
    """One process alone."""

    rank, size = 0, 1
    here = 1  # how many of them are on this machine

    @property
    def main(self) -> bool:
        """Whether this rank evaluates, logs, talks and writes the common files."""
        return self.rank == 0

    def mean_(self, tensors: list[Tensor]) -> None:
        """Each tensor becomes its mean over the ranks, in one exchange; what is not finite on one
        is so on all.
        """

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the ranks."""
        return x

    def cat(self, x: Tensor) -> Tensor:
        """All ranks' entries (N,) as one vector, in the order of the ranks."""
        return x

    def sum(self, numbers: list[int]) -> list[int]:
        """Each number's sum over the ranks."""
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag

    def meet(self) -> None:
        """Wait until all ranks are here."""
        self.sum([0])

    def gather(self, value: Any) -> list[Any]:
        """Every rank's plain JSON value."""
        return [value]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Every rank's bytes."""
        return [data]

    def led(self, act: Callable[[], T]) -> T | None:
        """Rank 0 alone does something that may be refused; the others wait, and end where
        it does.
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
        """Leave together where all went well."""


ALONE = World()


class Ranks(World):
    """This process among others, through torch.distributed: gloo between CPUs, NCCL
    between GPUs.
    """

    def __init__(self, launch: Launch, device: torch.device):
        import torch.distributed as dist

        self.rank, self.size, self.here, self._dist = (
            launch.rank,
            launch.size,
            launch.local_size,
            dist,
        )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_S))))
            store = dist.PrefixStore("worldmodel", store)
            own = dist.PrefixStore(_start_of_all(store, self.rank, self.size), store)
            answer = timedelta(seconds=ANSWER_S)
            dist.init_process_group(
                backend, store=own, rank=self.rank, world_size=self.size, timeout=answer
            )
        except (RuntimeError, ValueError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise Lost(
                f"the {self.size} ranks did not find each other at {place} ({_short(error)}). "
                f"Nothing was begun: see "
                "that all were started and reach that address, then give the same command again"
            ) from error

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        """Say in one line that nobody answers."""
        try:
            yield
        except RuntimeError as error:
            raise Lost(
                f"another rank is gone ({_short(error)}); its own lines say why. The same "
                f"command goes on from the "
                "last checkpoint"
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
        # On the CPU whatever the device is: nothing of the GPU's queue has to be waited for.
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

    def led(self, act: Callable[[], T]) -> T | None:
        if not self.main:
            code = self.sum([0])[0]
            if code:
                raise Ended(code)
            return None
        try:
            done = act()
        except Exception as error:
            self.sum([74 if isinstance(error, OSError) else getattr(error, "exit_code", 2)])
            raise
        self.meet()
        return done

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ):
        # A rank that fails just goes: its closed connections tell the others.
        if error is None:
            self.meet()
            self._dist.destroy_process_group()


def _start_of_all(store, rank: int, size: int) -> str:
    """A name for this start, the same on all its ranks and on none before.

    torchrun's store outlives a restart, and with it the addresses of processes that are dead. So
    rank 0 repeats its name with all that has been said to it, until each of the others has found
    there what it said itself.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + JOIN_S
    if rank:
        store.set(f"hello/{rank}", own)
    while time.monotonic() < deadline:
        if rank:
            name, *heard = json.loads(store.get("welcome"))
            if own in heard:
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
    raise RuntimeError(f"some did not come in {JOIN_S} s")


def join(launch: Launch, device: torch.device) -> World:
    """Meet the other ranks, if there are any."""
    return ALONE if launch.size == 1 else Ranks(launch, device)


def check_same(world: World, c: Config) -> None:
    """All ranks must have been started alike: where one was not, all end with exit code 2."""
    plain = world.gather(configs.to_plain(c)) if world.size > 1 else []
    for rank, own in enumerate(plain):
        different = configs.differences(plain[0], own)
        if different and not world.main:
            raise Ended(2)
        if different:
            shown = "; ".join(
                f"{key} {first} -> {other}" for key, (first, other) in different.items()
            )
            raise ConfigError(
                [f"rank {rank} was started with another configuration than rank 0: {shown}"]
            )


def _short(error: Exception) -> str:
    """The first sentence of a library's message, without the place in its source."""
    return (
        re.sub(r"^(\[[^\]]*\] *)+", "", str(error).splitlines()[0])
        .split(". ")[0]
        .rstrip(".")[:160]
    )
