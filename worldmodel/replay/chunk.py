"""The packed layout of replay rows, and the append-only chunk files that hold them."""

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

from worldmodel.errors import DataError
from worldmodel.system import fault_injection
from worldmodel.system.files import open_regular, read_exactly, write_all

CHUNK_NAME = re.compile(
    r"(\d{4,6})-(\d{8,12})\.(rows|zrows)"
)  # rows, or compressed rows (compressed_chunk.py)
ALL_STREAMS = range(10**6)  # the stream numbers that fit into a file name

Spec = Mapping[str, tuple[tuple[int, ...], Any]]
Row = Mapping[str, Any]


class ReplayError(DataError):
    """The replay's manifest or files cannot be used."""


class ReplayMissing(ReplayError):
    """All rows that the manifest lists are missing."""

    def __init__(self, what: str):
        super().__init__(
            f"{what}: restore it, or resume from the same weights and collect new experience "
            "with --replay.lost accept, or start over with --run.fresh true"
        )


class Layout:
    """The packing of one row: its arrays in sequence, then every scalar bool as one bit."""

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
        # Sorted by name, so that the order of the spec does not change the files.
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

    def check_row(self, row: Row, where: str) -> dict[str, np.ndarray]:
        """Return the row as arrays; ValueError names the first key that does not fit the spec."""
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

    def write_row(self, record: np.ndarray, index: int, row: Mapping[str, np.ndarray]) -> None:
        """Pack one checked row into `record[index]`."""
        for i, key in enumerate(self.arrays):
            record[f"c{i}"][index] = row[key]
        bits = sum(1 << i for i, key in enumerate(self.flags) if row[key])
        record["flags"][index] = np.frombuffer(bits.to_bytes(self.flag_bytes, "little"), np.uint8)

    def allocate_batch(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Allocate the columns of a batch (B,T,...), with the flags as packed bits."""
        out = {
            key: np.empty((batch, length, *self.spec[key][0]), self.spec[key][1])
            for key in self.arrays
        }
        return {**out, "flags": np.empty((batch, length, self.flag_bytes), np.uint8)}

    def copy_rows(self, record: np.ndarray, out: Mapping[str, np.ndarray], b: int, t: int) -> None:
        """Copy packed rows into `out[...][b, t:]`."""
        end = t + len(record)
        for i, key in enumerate(self.arrays):
            out[key][b, t:end] = record[f"c{i}"]
        out["flags"][b, t:end] = record["flags"]

    def unpack_flags(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Unpack the flag column into one bool array per key, in the spec's order."""
        bits = np.unpackbits(columns["flags"], axis=-1, bitorder="little").astype(bool)
        flags = {key: np.ascontiguousarray(bits[..., i]) for i, key in enumerate(self.flags)}
        return {key: flags[key] if key in flags else columns[key] for key in self.spec}

    def count_flag(self, record: np.ndarray, key: str) -> int:
        """Count the rows whose scalar flag `key` is set."""
        if key not in self.flags:
            return 0
        byte, bit = divmod(self.flags.index(key), 8)
        return int(np.count_nonzero(record["flags"][:, byte] & (1 << bit)))

    def describe(self) -> dict[str, list]:
        """Describe the spec in JSON values, for comparison with a manifest."""
        return {key: [list(shape), dtype.str] for key, (shape, dtype) in self.spec.items()}


def list_chunk_files(directory: Path, streams: range = ALL_STREAMS) -> list[str]:
    """List the names of these streams' chunk files in a directory, sorted."""
    if not directory.is_dir():
        return []
    found = [
        match for entry in os.scandir(directory) if (match := CHUNK_NAME.fullmatch(entry.name))
    ]
    return sorted(match[0] for match in found if int(match[1]) in streams)


@dataclasses.dataclass
class Chunk:
    """Consecutive rows of one stream; the first `saved` rows are on disk, with checksum `crc`."""

    stream: int
    number: int
    rows: int = 0
    episodes: int = 0
    saved: int = 0
    crc: int = 0
    data: np.ndarray | None = None  # packed rows; None when all of them are read from the file

    @property
    def name(self) -> str:
        """The file's name, which encodes stream and position."""
        return f"{self.stream:04d}-{self.number:08d}.rows"

    def count_bytes(self, row_bytes: int) -> int:
        """Return the bytes that the rows take."""
        return self.rows * row_bytes

    def read(self, directory: Path | None, dtype: np.dtype, first: int, end: int) -> np.ndarray:
        """Return rows first to end, memory-mapped from the file if they are not in memory."""
        if self.data is not None:
            return self.data[first:end]
        assert directory is not None
        # Map the file at each use: an open map holds a file descriptor, and a million rows are
        # thousands of chunks.
        with os.fdopen(open_regular(directory / self.name), "rb") as file:
            return np.asarray(np.memmap(file, dtype, "r", shape=(self.rows,)))[first:end]

    def release(self) -> None:
        """Drop the rows from memory; `read` maps them from the file from now on."""
        self.data = None

    def save(self, directory: Path) -> None:
        """Append the unsaved rows to the file; on an OSError truncate it to the saved rows."""
        assert self.data is not None
        size = self.data.dtype.itemsize
        fd = open_regular(directory / self.name, os.O_WRONLY | os.O_CREAT)
        try:
            # If another program truncated the file, rewrite the missing rows from memory.
            start = min(self.saved, os.fstat(fd).st_size // size)
            os.ftruncate(fd, start * size)
            os.lseek(fd, 0, os.SEEK_END)
            try:
                data = view_as_bytes(self.data[start : self.rows])
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
        self.crc = zlib.crc32(view_as_bytes(self.data[self.saved : self.rows]), self.crc)
        self.saved = self.rows

    def restore(self, directory: Path, layout: Layout, room: int) -> str:
        """Read the rows and truncate the file to them; return what is wrong, or ''.

        The memory has space for `room` rows.
        """
        why = self.read_rows(directory, layout, room)
        path, size = directory / self.name, self.rows * layout.row_bytes
        # Rows written after the checkpoint are dropped: the resumed run writes them again.
        if not why and path.stat().st_size > size:
            with open(path, "r+b", opener=open_regular) as file:
                file.truncate(size)
        return why

    def read_rows(self, directory: Path, layout: Layout, room: int) -> str:
        """Read the rows into memory with space for `room` rows; return what is wrong, or ''.

        The file is not changed.
        """
        size = self.rows * layout.row_bytes
        data = np.empty(0, layout.dtype)

        def allocate(file_size: int) -> memoryview | str:
            nonlocal data
            if file_size < size:
                return "short"
            data = np.empty(room, layout.dtype)
            return view_as_bytes(data[: self.rows])

        why = read_with_crc(directory / self.name, self.crc, allocate)
        if why:
            return why
        self.data, self.saved = data, self.rows
        self.episodes = layout.count_flag(data[: self.rows], "is_first")
        return ""


def read_with_crc(path: Path, crc: int, allocate: Callable[[int], memoryview | str]) -> str:
    """Read a file and verify its checksum; return what is wrong, or ''.

    `allocate` returns the buffer to fill for a file of the given size, or why it refuses.
    """
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "not-a-file"
    try:
        buffer = allocate(os.fstat(fd).st_size)
        if isinstance(buffer, str):
            return buffer
        if not read_exactly(fd, buffer):
            return "short"
    except OSError:
        return "unreadable"
    finally:
        os.close(fd)
    return "" if zlib.crc32(buffer) == crc else "bad-crc"


def view_as_bytes(record: np.ndarray) -> memoryview:
    """View contiguous packed rows as bytes, without a copy."""
    return record.view(np.uint8).reshape(-1).data
