"""Replay storage: packed rows, and the append-only chunk files that hold them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.system import fault_injection
from worldmodel.system.files import open_regular, read_exactly, write_all

NAME = re.compile(r"(\d{4,6})-(\d{8,12})\.(rows|zrows)")  # as they came, or packed (packed.py)
ALL_STREAMS = range(10**6)  # that names have room for

Spec = Mapping[str, tuple[tuple[int, ...], Any]]
Row = Mapping[str, Any]


class ReplayError(RuntimeError):
    """The replay's manifest or files cannot be used (exit code 4)."""

    exit_code = 4


class ReplayMissing(ReplayError):
    """None of the rows that the manifest promises are there."""

    def __init__(self, what: str):
        """Say what can be done about it."""
        super().__init__(
            f"{what}: put it back, go on from the same weights and collect anew with "
            f"--replay.lost "
            "accept, or start over with --run.fresh true"
        )


class Layout:
    """How one row is packed: the arrays one after the other, then every scalar bool as one bit."""

    def __init__(self, spec: Spec):
        """Check the spec and build the record type."""
        self.spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for key, (shape, kind) in spec.items():
            dtype = np.dtype(kind).newbyteorder("<")
            if dtype.kind not in "biuf":
                raise ValueError(
                    f"replay key {key!r} has dtype {dtype}; only bool, int and float can be stored"
                )
            self.spec[key] = (tuple(int(size) for size in shape), dtype)
        # Packed by name, so that the order in which a spec is written does not change the files.
        self.flags = sorted(
            key for key, (shape, dtype) in self.spec.items() if shape == () and dtype.kind == "b"
        )
        self.arrays = sorted(self.spec.keys() - set(self.flags))
        self.flag_bytes = (len(self.flags) + 7) // 8
        # Columns are numbered, so that no key can clash with the flag column.
        columns = [
            (f"c{i}", self.spec[key][1], self.spec[key][0]) for i, key in enumerate(self.arrays)
        ]
        self.dtype = np.dtype([*columns, ("flags", np.uint8, (self.flag_bytes,))])
        self.row_bytes = self.dtype.itemsize

    def check(self, row: Row, where: str) -> dict[str, np.ndarray]:
        """Return the row as arrays, or raise ValueError naming the first key that does not fit the
        spec.
        """
        if row.keys() != self.spec.keys():
            self._raise_keys(row, where)
        arrays = {}
        for key, (shape, dtype) in self.spec.items():
            value = arrays[key] = np.asarray(row[key])
            kinds = {"f": "fiu", "b": "b"}.get(dtype.kind)
            fits = value.dtype.kind in kinds if kinds else value.dtype == dtype
            if value.shape != shape or not fits:
                raise ValueError(
                    f"{where}: {key!r} is {value.dtype} of shape {value.shape}; the spec wants "
                    f"{dtype} of shape {shape}"
                )
        return arrays

    def _raise_keys(self, row: Row, where: str) -> None:
        for key in row:
            if key not in self.spec:
                close = difflib.get_close_matches(str(key), self.spec, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"{where}: unknown key {key!r}, the spec has {sorted(self.spec)}{hint}"
                )
        missing = [key for key in self.spec if key not in row]
        raise ValueError(
            f"{where}: key {missing[0]!r} is missing, the spec has {sorted(self.spec)}"
        )

    def write(self, record: np.ndarray, index: int, row: Mapping[str, np.ndarray]) -> None:
        """Pack one checked row into `record[index]`."""
        for i, key in enumerate(self.arrays):
            record[f"c{i}"][index] = row[key]
        bits = sum(1 << i for i, key in enumerate(self.flags) if row[key])
        record["flags"][index] = np.frombuffer(bits.to_bytes(self.flag_bytes, "little"), np.uint8)

    def empty(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Allocate the columns of a batch, (B,T,...) each, with the flags still packed."""
        out = {
            key: np.empty((batch, length, *self.spec[key][0]), self.spec[key][1])
            for key in self.arrays
        }
        return {**out, "flags": np.empty((batch, length, self.flag_bytes), np.uint8)}

    def copy(self, record: np.ndarray, out: Mapping[str, np.ndarray], b: int, t: int) -> None:
        """Copy packed rows into `out[...][b, t:]`."""
        end = t + len(record)
        for i, key in enumerate(self.arrays):
            out[key][b, t:end] = record[f"c{i}"]
        out["flags"][b, t:end] = record["flags"]

    def unpack(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Turn the packed flag column of a batch back into one bool array per key, in the spec's
        order.
        """
        bits = np.unpackbits(columns["flags"], axis=-1, bitorder="little").astype(bool)
        flags = {key: np.ascontiguousarray(bits[..., i]) for i, key in enumerate(self.flags)}
        return {key: flags[key] if key in flags else columns[key] for key in self.spec}

    def count(self, record: np.ndarray, key: str) -> int:
        """Count the rows whose scalar flag `key` is set."""
        if key not in self.flags:
            return 0
        byte, bit = divmod(self.flags.index(key), 8)
        return int(np.count_nonzero(record["flags"][:, byte] & (1 << bit)))

    def describe(self) -> dict[str, list]:
        """Describe the spec in JSON values, to compare it with a manifest's."""
        return {key: [list(shape), dtype.str] for key, (shape, dtype) in self.spec.items()}


def chunk_files(directory: Path, streams: range = ALL_STREAMS) -> list[str]:
    """List the names of the chunk files in a directory that belong to these streams, in order."""
    if not directory.is_dir():
        return []
    found = [match for entry in os.scandir(directory) if (match := NAME.fullmatch(entry.name))]
    return sorted(match[0] for match in found if int(match[1]) in streams)


@dataclasses.dataclass
class Chunk:
    """A run of rows of one stream: `rows` in all, the first `saved` of them on disk with checksum
    `crc`.
    """

    stream: int
    number: int
    rows: int = 0
    episodes: int = 0
    saved: int = 0
    crc: int = 0
    data: np.ndarray | None = None  # packed rows; None when all of them are read from the file

    @property
    def name(self) -> str:
        """The file's name, which alone decides stream and position."""
        return f"{self.stream:04d}-{self.number:08d}.rows"

    def held(self, row_bytes: int) -> int:
        """Bytes its rows take."""
        return self.rows * row_bytes

    def read(self, directory: Path | None, dtype: np.dtype, first: int, end: int) -> np.ndarray:
        """Return rows first to end, mapped from the file when they are not in memory."""
        if self.data is not None:
            return self.data[first:end]
        assert directory is not None
        # Mapped anew at each use: a kept map holds a descriptor, and a million rows are thousands
        # of chunks.
        return np.asarray(np.memmap(directory / self.name, dtype, "r", shape=(self.rows,)))[
            first:end
        ]

    def release(self) -> None:
        """Forget the rows in memory; they are read from the file from now on."""
        self.data = None

    def save(self, directory: Path) -> None:
        """Append the unsaved rows to the file; on an OSError the file is cut back to its last good
        row.
        """
        assert self.data is not None
        size = self.data.dtype.itemsize
        fd = os.open(
            directory / self.name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        try:
            # Less than was saved means that someone cut the file; what is missing is still in
            # memory.
            start = min(self.saved, os.fstat(fd).st_size // size)
            os.ftruncate(fd, start * size)
            os.lseek(fd, 0, os.SEEK_END)
            try:
                data = as_bytes(self.data[start : self.rows])
                write_all(fd, data[: len(data) // 2])
                fault_injection.reach("replay-torn")
                write_all(fd, data[len(data) // 2 :])
                fault_injection.reach("replay-unsynced")
                os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, start * size)
                raise
        finally:
            os.close(fd)
        self.crc = zlib.crc32(as_bytes(self.data[self.saved : self.rows]), self.crc)
        self.saved = self.rows

    def restore(self, directory: Path, layout: Layout, room: int) -> str:
        """Take `rows` rows into memory with space for `room`; say what is wrong ('' when nothing
        is).
        """
        why = self.take_in(directory, layout, room)
        path, size = directory / self.name, self.rows * layout.row_bytes
        # Rows written after the checkpoint are dropped: the resumed run writes its own.
        if not why and path.stat().st_size > size:
            os.truncate(path, size)
        return why

    def take_in(self, directory: Path, layout: Layout, room: int) -> str:
        """Read `rows` rows into memory with space for `room`, leaving the file as it is; say what
        is wrong.
        """
        size = self.rows * layout.row_bytes
        data = np.empty(0, layout.dtype)

        def place(there: int) -> memoryview | str:
            nonlocal data
            if there < size:
                return "short"
            data = np.empty(room, layout.dtype)
            return as_bytes(data[: self.rows])

        why = read_checked(directory / self.name, self.crc, place)
        if why:
            return why
        self.data, self.saved = data, self.rows
        self.episodes = layout.count(data[: self.rows], "is_first")
        return ""


def read_checked(path: Path, crc: int, place: Callable[[int], memoryview | str]) -> str:
    """Fill the buffer that `place` gives for a file of so many bytes, or refuses; say what is
    wrong ('': nothing).
    """
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "not-a-file"
    try:
        buffer = place(os.fstat(fd).st_size)
        if isinstance(buffer, str):
            return buffer
        if not read_exactly(fd, buffer):
            return "short"
    except OSError:
        return "unreadable"
    finally:
        os.close(fd)
    return "" if zlib.crc32(buffer) == crc else "bad-crc"


def as_bytes(record: np.ndarray) -> memoryview:
    """View contiguous packed rows as bytes, without a copy."""
    return record.view(np.uint8).reshape(-1).data
