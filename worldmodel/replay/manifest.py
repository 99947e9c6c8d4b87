"""The replay manifest of an untrusted checkpoint, every value checked before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.replay.chunk import CHUNK_NAME, Chunk, Layout, ReplayError
from worldmodel.replay.compressed_chunk import CompressedChunk

FORMAT = 1
MAX_STREAMS = 10_000
MAX_ROWS = 2**53
ADVICE = (
    "Nothing was changed: restore the checkpoint and the configuration that belong to this "
    "replay, or start over with --run.fresh true, which keeps this directory beside the new one"
)


class Manifest:
    """The checked contents of `Replay.state_dict()`."""

    def __init__(self, state: dict[str, Any], layout: Layout, max_chunk_rows: int):
        """Check the whole manifest; ReplayError says what is wrong."""
        try:
            self._parse(state, layout, max_chunk_rows)
        except ReplayError as error:
            raise ReplayError(f"{error}. {ADVICE}") from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ReplayError(f"the replay manifest is malformed: {error!r}. {ADVICE}") from error
        self.names = {chunk.name for chunk in self.chunks}
        self.nonempty = any(self.next.values())
        # Chunks before a stream's oldest were evicted; older checkpoints may still need the files.
        self._oldest = {stream: -(-row // self.chunk_rows) for stream, row in self.next.items()}
        for chunk in self.chunks:
            self._oldest[chunk.stream] = min(self._oldest[chunk.stream], chunk.number)

    def _parse(self, state: dict[str, Any], layout: Layout, max_chunk_rows: int) -> None:
        if state["format"] != FORMAT:
            raise ReplayError(
                f"the replay has format {state['format']!r}; this program reads format {FORMAT}"
            )
        _check_spec(state["spec"], layout.describe())
        self.chunk_rows = _check_integer(state["chunk_rows"], 1, max_chunk_rows)
        self.next = {
            int(stream): _check_integer(row, 0, MAX_ROWS) for stream, row in state["next"].items()
        }
        for stream in self.next:
            _check_integer(stream, 0, MAX_STREAMS)
        self.generator = np.random.Generator(np.random.PCG64(0))
        self.generator.bit_generator.state = state["generator"]
        self.chunks: list[Chunk | CompressedChunk] = []
        ends: dict[int, int] = {}
        for entry in state["chunks"]:
            chunk = self._parse_chunk(entry)
            if chunk.number * self.chunk_rows < ends.get(chunk.stream, 0):
                raise ReplayError(f"the replay manifest lists {chunk.name} twice or out of order")
            ends[chunk.stream] = chunk.number * self.chunk_rows + chunk.rows
            if ends[chunk.stream] > self.next[chunk.stream]:
                raise ReplayError(
                    f"the replay manifest lists {chunk.name} beyond its stream's end"
                )
            self.chunks.append(chunk)

    def _parse_chunk(self, entry: dict[str, Any]) -> Chunk | CompressedChunk:
        stream = _check_integer(entry["stream"], 0, MAX_STREAMS)
        number, offset = divmod(_check_integer(entry["first"], 0, MAX_ROWS), self.chunk_rows)
        rows = _check_integer(entry["rows"], 1, self.chunk_rows)
        kind = CompressedChunk if str(entry["file"]).endswith(".zrows") else Chunk
        chunk = kind(stream, number, rows=rows, crc=_check_integer(entry["crc32"], 0, 2**32 - 1))
        # A chunk has exactly one valid name, so paths, '..' and other folders are refused.
        if offset or entry["file"] != chunk.name:
            raise ReplayError(
                f"the replay manifest names the file {entry['file']!r} where {chunk.name} is "
                f"expected"
            )
        return chunk

    def is_superseded(self, name: str) -> bool:
        """Say whether a file outside the manifest was evicted or replaced by a compressed one."""
        match = CHUNK_NAME.fullmatch(name)
        if match is None:
            return False
        compressed = match[3] == "rows" and name.replace(".rows", ".zrows") in self.names
        return compressed or int(match[2]) < self._oldest.get(int(match[1]), 0)


def _check_integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} is not an integer from {low} to {high}")
    return value


def _check_spec(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in [*wanted, *found]:
        if found.get(key) != wanted.get(key):
            raise ReplayError(
                f"the replay on disk does not fit this run: {key!r} is {found.get(key)} there, "
                f"{wanted.get(key)} here"
            )
