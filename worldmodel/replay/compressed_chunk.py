"""Full replay chunks, compressed in blocks so that a sequence is read without the other blocks."""

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

from worldmodel.replay.chunk import Layout, ReplayError, read_with_crc
from worldmodel.system import fault_injection
from worldmodel.system.files import open_regular, write_all

LEVEL = 3
BLOCK = 32  # rows compressed together; a sequence of 32 touches two blocks
HEADER = struct.Struct("<III")  # rows, episodes, blocks; the size of each block follows


@dataclasses.dataclass
class CompressedChunk:
    """The compressed rows of a full chunk; its file holds a header, block sizes and blocks."""

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
        """The file's name, which encodes stream and position."""
        return f"{self.stream:04d}-{self.number:08d}.zrows"

    def count_bytes(self, row_bytes: int) -> int:
        """Return the bytes that the compressed rows take; `row_bytes` is not needed."""
        assert self.offsets is not None
        return int(self.offsets[-1])

    @classmethod
    def compress(
        cls, stream: int, number: int, episodes: int, data: np.ndarray
    ) -> CompressedChunk:
        """Compress packed rows in blocks."""
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        raw = data.view(np.uint8).reshape(len(data), -1)
        blocks = [compressor.compress(raw[i : i + BLOCK].data) for i in range(0, len(data), BLOCK)]
        sizes = np.array([len(b) for b in blocks], "<u4")
        head = HEADER.pack(len(data), episodes, len(blocks)) + sizes.tobytes()
        body = head + b"".join(blocks)
        return cls(
            stream,
            number,
            len(data),
            episodes,
            crc=zlib.crc32(body),
            offsets=_compute_offsets(sizes),
            body=body,
        )

    def read(self, directory: Path | None, dtype: np.dtype, first: int, end: int) -> np.ndarray:
        """Decompress rows first to end."""
        assert self.offsets is not None
        low, high = first // BLOCK, -(-end // BLOCK)
        edges = self.offsets[low : high + 1]
        if self.body is not None:
            view = memoryview(self.body)[edges[0] : edges[-1]]
        else:
            assert directory is not None
            view = memoryview(_read_slice(directory / self.name, int(edges[0]), int(edges[-1])))
        blocks = [view[a - edges[0] : b - edges[0]] for a, b in itertools.pairwise(edges)]
        sizes = [min(BLOCK, self.rows - i * BLOCK) * dtype.itemsize for i in range(low, high)]
        try:
            # zstandard allocates the size that a block's frame claims, so check it first.
            if [zstandard.frame_content_size(b) for b in blocks] != sizes:
                raise zstandard.ZstdError("its blocks do not hold its rows")
            decompress = zstandard.ZstdDecompressor().decompress
            rows = np.frombuffer(b"".join([decompress(b) for b in blocks]), dtype)
        except zstandard.ZstdError as error:
            raise ReplayError(
                f"replay chunk {self.name} was damaged while in use: {error}. The same command "
                "resumes from the last checkpoint; if this happens again, test this machine's "
                "memory and disk"
            ) from error
        return rows[first - low * BLOCK : end - low * BLOCK]

    def save(self, directory: Path) -> None:
        """Write the whole file; on an OSError truncate it to nothing."""
        assert self.body is not None
        fd = open_regular(directory / self.name, os.O_WRONLY | os.O_CREAT)
        try:
            os.ftruncate(fd, 0)
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
        """Drop the bytes from memory; `read` takes them from the file from now on."""
        self.body = None

    def restore(self, directory: Path, layout: Layout, room: int) -> str:
        """Read the file into memory; return what is wrong, or ''.

        Files larger than the rows can be are refused before anything is allocated.
        """
        body = bytearray()

        def allocate(size: int) -> memoryview | str:
            if size > bound_file_size(self.rows, layout.row_bytes):
                return "too-long"
            body.extend(bytes(size))
            return memoryview(body)

        return read_with_crc(directory / self.name, self.crc, allocate) or self._parse(bytes(body))

    def _parse(self, body: bytes) -> str:
        """Check the header against the rows and the file's size; return what is wrong."""
        blocks = -(-self.rows // BLOCK)
        head = HEADER.size + 4 * blocks
        if len(body) < head:
            return "malformed"
        rows, episodes, count = HEADER.unpack_from(body)
        offsets = _compute_offsets(np.frombuffer(body, "<u4", blocks, HEADER.size))
        if (rows, count) != (self.rows, blocks) or episodes > rows or offsets[-1] != len(body):
            return "malformed"
        self.episodes, self.offsets, self.body, self.saved = episodes, offsets, body, rows
        return ""


def _compute_offsets(sizes: np.ndarray) -> np.ndarray:
    return HEADER.size + sizes.nbytes + np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _read_slice(path: Path, start: int, end: int) -> bytes:
    """Read a part of a file, opened at each use: a million rows are thousands of chunks."""
    fd = open_regular(path)
    try:
        return os.pread(fd, end - start, start)
    finally:
        os.close(fd)


def bound_file_size(rows: int, row_bytes: int) -> int:
    """Return an upper bound on the file size of compressed rows."""
    blocks = -(-rows // BLOCK)
    return HEADER.size + blocks * (4 + 64) + rows * row_bytes * 257 // 256
