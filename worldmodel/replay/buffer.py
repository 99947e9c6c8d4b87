"""The replay buffer: a ring of bounded size, in RAM or memory-mapped, that survives a restart."""

from __future__ import annotations

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UsageError
from worldmodel.replay.capacity import check_capacity, count_row_bytes, describe_capacity
from worldmodel.replay.chunk import (
    ALL_STREAMS,
    Chunk,
    Layout,
    ReplayError,
    ReplayMissing,
    Row,
    Spec,
    list_chunk_files,
)
from worldmodel.replay.compressed_chunk import CompressedChunk
from worldmodel.replay.manifest import Manifest
from worldmodel.replay.samplers import Sampler
from worldmodel.replay.segments import Segments
from worldmodel.system.files import fsync_directory, quarantine

__all__ = [
    "Replay",
    "ReplayError",
    "ReplayMissing",
    "check_capacity",
    "count_row_bytes",
    "describe_capacity",
]

log = logging.getLogger(__name__)


class Replay:
    """Rows of several streams (one per environment), sampled as sequences; a sampler chooses where
    they start.

    The rows of a stream are numbered from 0, and row r lies in chunk r // chunk_rows. So a row's
    position is arithmetic, and the cost of reading a batch does not depend on the number of rows.
    A missing chunk leaves a hole in the numbers; the contiguous runs between holes are segments,
    and a sequence never crosses the end of its segment. Not thread-safe.

    Several processes may share a directory: each writes its own streams, from `first_stream` on,
    and may also hold chunks of other streams. The process with the `last` streams also manages
    the files of streams that no process writes.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        capacity_bytes: int,
        store: str,
        directory: Path | None,
        num_streams: int,
        seed: int,
        sampler: Sampler,
        codec: str = "none",
        chunk_rows: int = 512,
        first_stream: int = 0,
        last: bool = True,
    ):
        """Make an empty buffer; `load_state_dict` fills it from a manifest and the directory."""
        if store not in ("ram", "disk"):
            raise ValueError(f"replay.store is {store!r}; it must be 'ram' or 'disk'")
        if store == "disk" and directory is None:
            raise ValueError("replay.store 'disk' needs a directory")
        self.layout = Layout(spec)
        self.store, self.directory, self.codec = store, directory, codec
        self.streams = range(first_stream, first_stream + num_streams)
        self._managed_streams = range(
            first_stream, ALL_STREAMS.stop if last else self.streams.stop
        )
        self.capacity_bytes = int(capacity_bytes)
        # Uncompressed; more compressed rows fit
        self.capacity_rows = self.capacity_bytes // self.layout.row_bytes
        if self.capacity_rows < 1:
            raise UsageError(
                f"replay.capacity_gb holds no row of {self.layout.row_bytes:,} bytes; raise it"
            )
        # Eviction is by chunk: small chunks keep a small buffer nearly full.
        self.chunk_rows = max(1, min(chunk_rows, self.capacity_rows // (4 * num_streams)))
        self._max_chunk_rows = chunk_rows
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self.sampler = sampler
        self._owned = False  # whether files of other runs have been moved aside
        self._created = False  # whether a file was created since the last fsync of the directory
        self._write_failed = False
        self._reset()

    def _reset(self) -> None:
        # Oldest first
        self._chunks: OrderedDict[tuple[int, int], Chunk | CompressedChunk] = OrderedDict()
        self._unsaved: dict[tuple[int, int], Chunk | CompressedChunk] = {}
        self._next = dict.fromkeys(self.streams, 0)  # stream -> number of its next row
        self._segments = Segments()
        self._evicted: set[str] = set()  # files no longer sampled that a checkpoint may still need
        self._rows = self._episodes = self._bytes = 0
        self._sampled = np.zeros((2, 0), np.int64)  # streams and rows where a batch's rows end
        self.sampler.clear(self.chunk_rows)

    def __len__(self) -> int:
        """Return the number of rows that can be sampled."""
        return self._rows

    def stats(self) -> dict[str, int]:
        """Return the sizes that are logged."""
        each = round(self._bytes / self._rows) if self._rows else self.layout.row_bytes
        return {
            "rows": self._rows,
            "episodes": self._episodes,
            "bytes": self._bytes,
            "bytes_per_row": each,
        }

    def add(self, stream: int, row: Row) -> None:
        """Append one row to a stream; ValueError if it does not fit the spec."""
        if stream not in self.streams:
            raise ValueError(
                f"replay writes streams {self.streams[0]} to {self.streams[-1]}, not {stream}"
            )
        arrays = self.layout.check_row(row, f"replay row of stream {stream}")
        self._make_room(self.layout.row_bytes)
        chunk = self._open_chunk(stream)
        assert chunk.data is not None
        self.layout.write_row(chunk.data, chunk.rows, arrays)
        begins = self.layout.count_flag(chunk.data[chunk.rows : chunk.rows + 1], "is_first")
        chunk.rows += 1
        chunk.episodes += begins
        self._extend(chunk, 1, begins, self.layout.row_bytes)
        self._next[stream] += 1
        self._unsaved[stream, chunk.number] = chunk
        if chunk.rows == self.chunk_rows:
            self._seal(chunk)

    def _seal(self, chunk: Chunk) -> None:
        """Finish a full chunk: compress it if a codec is set, write it if the store is disk."""
        if self.codec == "zstd":
            key = (chunk.stream, chunk.number)
            assert chunk.data is not None
            compressed = CompressedChunk.compress(*key, chunk.episodes, chunk.data)
            size = self.layout.row_bytes
            self._bytes += compressed.count_bytes(size) - chunk.count_bytes(size)
            self._chunks[key] = self._unsaved[key] = compressed
            if chunk.saved:
                self._evicted.add(chunk.name)
        if self.store == "disk":
            self.flush()

    def _open_chunk(self, stream: int) -> Chunk:
        """Return the chunk that takes the stream's next row, starting one where needed."""
        number, offset = divmod(self._next[stream], self.chunk_rows)
        chunk = self._chunks.get((stream, number))
        if offset and (chunk is None or chunk.rows != offset):
            # The rows before this one were evicted or lost: skip the rest of their chunk.
            number, chunk = number + 1, None
            self._next[stream] = number * self.chunk_rows
        if not isinstance(chunk, Chunk):
            chunk = Chunk(stream, number, data=np.empty(self.chunk_rows, self.layout.dtype))
            self._chunks[stream, number] = chunk
            self.sampler.add_chunk(stream, number)
        return chunk

    def _extend(self, chunk: Chunk | CompressedChunk, rows: int, episodes: int, size: int) -> None:
        """Add a chunk's last rows to the segments and counters."""
        self._segments.extend(
            chunk.stream, chunk.number * self.chunk_rows + chunk.rows - rows, rows
        )
        self._rows += rows
        self._episodes += episodes
        self._bytes += size

    def _make_room(self, size: int) -> None:
        """Evict the oldest chunks until `size` more bytes fit into the capacity."""
        while self._chunks and self._bytes + size > self.capacity_bytes:
            key, chunk = self._chunks.popitem(last=False)
            self.sampler.drop_chunk(*key)
            self._unsaved.pop(key, None)
            self._segments.drop(chunk.stream, chunk.rows)
            self._rows -= chunk.rows
            self._episodes -= chunk.episodes
            self._bytes -= chunk.count_bytes(self.layout.row_bytes)
            if chunk.saved:
                self._evicted.add(chunk.name)

    def can_sample(self, batch: int, length: int) -> bool:
        """Say whether any sequence of this length is held (a batch draws with replacement)."""
        return batch > 0 and len(self._segments.index_starts(length)) > 0

    def sample(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Draw sequences, which start where the sampler says: {key: (B,T,...)}."""
        index = self._segments.index_starts(length)
        if not len(index):
            raise ValueError(
                f"replay holds {self._rows} rows but no sequence of {length} to sample; collect "
                f"more first"
            )
        streams, rows = index.locate(self.sampler(index, batch, self._rng))
        self._sampled = np.stack([streams, rows + length])
        out = self.layout.allocate_batch(batch, length)
        for b, (stream, row) in enumerate(self._sampled.T.tolist()):
            self._read(out, b, stream, row - length, length)
        return self.layout.unpack_flags(out)

    def locate_sampled(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the streams and the first rows (B,) of the newest batch."""
        streams, ends = self._sampled
        return streams, ends - length

    def record_losses(self, losses: np.ndarray) -> None:
        """Tell the sampler how badly the last rows of the newest batch were predicted (B,T)."""
        streams, ends = self._sampled
        self.sampler.record_losses(streams, ends - losses.shape[1], losses)

    def _read(
        self, out: dict[str, np.ndarray], b: int, stream: int, row: int, length: int
    ) -> None:
        """Copy one sequence into a batch, chunk by chunk."""
        t = 0
        while t < length:
            number, offset = divmod(row + t, self.chunk_rows)
            take = min(length - t, self.chunk_rows - offset)
            chunk = self._chunks[stream, number]
            self.layout.copy_rows(
                chunk.read(self.directory, self.layout.dtype, offset, offset + take), out, b, t
            )
            t += take

    def flush(self, strict: bool = False) -> bool:
        """Append all new rows to their files and sync them; return whether that succeeded.

        After a failure the rows stay in memory for the next call. `strict` raises it instead.
        """
        if self.directory is None:
            return True
        try:
            self._own_directory(self.directory)
            for key, chunk in list(self._unsaved.items()):
                self._created |= not chunk.saved
                chunk.save(self.directory)
                del self._unsaved[key]
                if self.store == "disk" and chunk.rows == self.chunk_rows:
                    chunk.release()
            if self._created:
                fsync_directory(self.directory)
                self._created = False
        except OSError as error:
            if strict:
                raise
            if not self._write_failed:
                log.warning(
                    "replay rows stay in memory, %s cannot be written: %s", self.directory, error
                )
            self._write_failed = True
            return False
        self._write_failed = False
        return True

    def _own_directory(self, directory: Path) -> None:
        """Before the first write, quarantine the chunk files of another run."""
        if self._owned:
            return
        directory.mkdir(parents=True, exist_ok=True)
        for name in list_chunk_files(directory, self._managed_streams):
            quarantine(directory / name, "other-run")
        self._owned = True

    def state_dict(self) -> dict[str, Any]:
        """Return the manifest of the flushed rows and the generator's state.

        Call `flush(strict=True)` first.
        """
        size = self.chunk_rows
        chunks = [
            {
                "file": c.name,
                "stream": c.stream,
                "first": c.number * size,
                "rows": c.saved,
                "crc32": c.crc,
            }
            for c in self._chunks.values()
            if c.saved
        ]
        return {
            "format": 1,
            "spec": self.layout.describe(),
            "chunk_rows": size,
            "next": {str(stream): row for stream, row in self._next.items()},
            "chunks": chunks,
            "generator": self._rng.bit_generator.state,
        }

    def load_state_dict(
        self, state: dict[str, Any], other_files: Collection[str] = (), discard: bool = False
    ) -> None:
        """Restore what `state_dict()` described; damaged chunks are quarantined and leave a hole.

        `other_files` names the chunk files that other processes hold. With `discard` only the
        generator and the row numbers are restored, and the buffer is empty.
        """
        manifest = Manifest(state, self.layout, self._max_chunk_rows)
        files = set(list_chunk_files(self.directory)) if self.directory else set()
        if (
            not discard
            and not manifest.names & files
            and (manifest.names or (manifest.nonempty and not other_files))
        ):
            raise ReplayMissing(f"the replay is missing from {self.directory}")
        self.chunk_rows, self._rng = manifest.chunk_rows, manifest.generator
        self._reset()
        self._next.update(manifest.next)
        self._owned = not discard
        if self.directory is None or discard:
            return
        strays = (
            set(list_chunk_files(self.directory, self._managed_streams))
            - manifest.names
            - set(other_files)
        )
        for name in sorted(strays):
            if manifest.is_superseded(name):
                self._evicted.add(name)
            else:
                self._quarantine(name, "after-checkpoint")
        for chunk in manifest.chunks:
            self._restore(chunk, self.directory)
        if manifest.names and not self._rows:
            raise ReplayMissing(f"every replay chunk in {self.directory} is damaged")

    def _restore(self, chunk: Chunk | CompressedChunk, directory: Path) -> None:
        """Verify one chunk of the manifest and load it, or quarantine it."""
        opened = self._next[chunk.stream] == chunk.number * self.chunk_rows + chunk.rows
        room = self.chunk_rows if opened else chunk.rows
        why = chunk.restore(directory, self.layout, room)
        if why:
            self._quarantine(chunk.name, why)
            return
        size = chunk.count_bytes(self.layout.row_bytes)
        self._make_room(size)  # the capacity may have been lowered
        if size > self.capacity_bytes:
            self._evicted.add(chunk.name)
            return
        self._chunks[chunk.stream, chunk.number] = chunk
        self.sampler.add_chunk(chunk.stream, chunk.number)
        self._extend(chunk, chunk.rows, chunk.episodes, size)
        if self.store == "disk" and not (opened and chunk.rows < self.chunk_rows):
            chunk.release()

    def _quarantine(self, name: str, why: str) -> None:
        assert self.directory is not None
        path = self.directory / name
        moved = quarantine(path, why) if os.path.lexists(path) else "nowhere"
        log.warning("replay chunk %s is left out (%s) and was moved to %s", path, why, moved)

    def collect_garbage(self, referenced: Iterable[dict[str, Any]]) -> None:
        """Delete the files of evicted chunks that no manifest of a kept checkpoint refers to."""
        if self.directory is None:
            return
        needed = {entry["file"] for state in referenced for entry in state["chunks"]}
        for name in sorted(self._evicted - needed):
            try:
                (self.directory / name).unlink()
            except OSError as error:
                if error.errno != errno.ENOENT:
                    log.warning("evicted replay chunk %s cannot be deleted: %s", name, error)
                    continue
            self._evicted.discard(name)
