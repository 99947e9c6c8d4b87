"""Sealed replay chunks: full ones, compressed in blocks so that a sequence is read without
unpacking the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import zstandard

from worldmodel.replay.chunk import Layout, ReplayError, read_checked
from worldmodel.system import fault_injection
from worldmodel.system.files import open_regular, write_all

LEVEL = 3
BLOCK = 32  # rows compressed together; a sequence of 32 touches two blocks
HEADER = struct.Struct("<III")  # rows, episodes, blocks; then each block's size


@dataclasses.dataclass
class PackedChunk:
    """Rows of one stream that will not change any more; the file holds the header, the sizes and
    the blocks.
    """

    stream: int
    number: int
    rows: int
    episodes: int = 0
    saved: int = 0
    crc: int = 0
    # where each block starts in the file, and where the last one ends
    offsets: np.ndarray | None = None
    body: bytes | None = None  # the file's bytes; None when they are read from the file

    @property
    def name(self) -> str:
        """The file's name, which alone decides stream and position."""
        return f"{self.stream:04d}-{self.number:08d}.zrows"

    def held(self, row_bytes: int) -> int:
        """Bytes its rows take."""
        assert self.offsets is not None
        return int(self.offsets[-1])

    @classmethod
    def of(cls, stream: int, number: int, episodes: int, data: np.ndarray) -> PackedChunk:
        """Compress packed rows."""
        press = zstandard.ZstdCompressor(level=LEVEL)
        raw = data.view(np.uint8).reshape(len(data), -1)
        blocks = [press.compress(raw[i : i + BLOCK].data) for i in range(0, len(data), BLOCK)]
        sizes = np.array([len(b) for b in blocks], "<u4")
        head = HEADER.pack(len(data), episodes, len(blocks)) + sizes.tobytes()
        body = head + b"".join(blocks)
        return cls(
            stream,
            number,
            len(data),
            episodes,
            crc=zlib.crc32(body),
            offsets=_offsets(sizes),
            body=body,
        )

    def read(self, directory: Path | None, dtype: np.dtype, first: int, end: int) -> np.ndarray:
        """Unpack rows first to end."""
        assert self.offsets is not None
        low, high = first // BLOCK, -(-end // BLOCK)
        edges = self.offsets[low : high + 1]
        if self.body is not None:
            view = memoryview(self.body)[edges[0] : edges[-1]]
        else:
            assert directory is not None
            view = memoryview(_slice(directory / self.name, int(edges[0]), int(edges[-1])))
        blocks = [view[a - edges[0] : b - edges[0]] for a, b in itertools.pairwise(edges)]
        wanted = [min(BLOCK, self.rows - i * BLOCK) * dtype.itemsize for i in range(low, high)]
        try:
            # Said by the block itself: it decides what is allocated.
            if [zstandard.frame_content_size(b) for b in blocks] != wanted:
                raise zstandard.ZstdError("its blocks do not hold its rows")
            unpack = zstandard.ZstdDecompressor().decompress
            rows = np.frombuffer(b"".join([unpack(b) for b in blocks]), dtype)
        except zstandard.ZstdError as error:
            raise ReplayError(
                f"replay chunk {self.name} was damaged while in use: {error}. The last "
                f"checkpoint is kept: the same "
                "command goes on from there; if this comes back, look to this machine's memory "
                "and disk"
            ) from error
        return rows[first - low * BLOCK : end - low * BLOCK]

    def save(self, directory: Path) -> None:
        """Write the whole file; on an OSError nothing of it stays."""
        assert self.body is not None
        fd = os.open(
            directory / self.name,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o644,
        )
        try:
            body = memoryview(self.body)
            write_all(fd, body[: len(body) // 2])
            fault_injection.reach("replay-torn")
            write_all(fd, body[len(body) // 2 :])
            fault_injection.reach("replay-unsynced")
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            raise
        finally:
            os.close(fd)
        self.saved = self.rows

    def release(self) -> None:
        """Forget the bytes; they are read from the file from now on."""
        self.body = None

    def restore(self, directory: Path, layout: Layout, room: int) -> str:
        """Read the file; say what is wrong ('' when nothing is). Nothing larger than its rows is
        ever allocated.
        """
        body = bytearray()

        def place(size: int) -> memoryview | str:
            if size > bound(self.rows, layout.row_bytes):
                return "too-long"
            body.extend(bytes(size))
            return memoryview(body)

        return read_checked(directory / self.name, self.crc, place) or self._parse(bytes(body))

    def _parse(self, body: bytes) -> str:
        """Check the header against the rows promised and the bytes there."""
        blocks = -(-self.rows // BLOCK)
        head = HEADER.size + 4 * blocks
        if len(body) < head:
            return "malformed"
        rows, episodes, count = HEADER.unpack_from(body)
        offsets = _offsets(np.frombuffer(body, "<u4", blocks, HEADER.size))
        if (rows, count) != (self.rows, blocks) or episodes > rows or offsets[-1] != len(body):
            return "malformed"
        self.episodes, self.offsets, self.body, self.saved = episodes, offsets, body, rows
        return ""


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return HEADER.size + sizes.nbytes + np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _slice(path: Path, start: int, end: int) -> bytes:
    """A part of a file; the file is opened anew at each use, since a million rows are thousands of
    chunks.
    """
    fd = open_regular(path)
    try:
        return os.pread(fd, end - start, start)
    finally:
        os.close(fd)


def bound(rows: int, row_bytes: int) -> int:
    """The most that so many rows can take, packed."""
    blocks = -(-rows // BLOCK)
    return HEADER.size + blocks * (4 + 64) + rows * row_bytes * 257 // 256
