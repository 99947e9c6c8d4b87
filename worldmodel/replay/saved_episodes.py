"""Whole episodes read from a saved run's replay; its files are never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.checkpoint import store
from worldmodel.checkpoint.validate import check_integer, check_observation, check_spaces
from worldmodel.errors import UsageError
from worldmodel.replay.chunk import Chunk, Layout, ReplayError
from worldmodel.replay.compressed_chunk import CompressedChunk
from worldmodel.replay.manifest import Manifest
from worldmodel.system.available_memory import available_memory

MAX_CHUNK_ROWS = 1 << 16  # of a chunk


class SavedEpisodes:
    """The episodes in the replay of a run's newest checkpoint.

    They are numbered by environment, then in the order of collection. Chunks that were read are
    kept, up to `kept_bytes` of them.
    """

    def __init__(self, run: Path, kept_bytes: int = 0):
        path, state = next(store.iterate_states(run / "checkpoints"), (run, None))
        if state is None:
            raise UsageError(f"{run} is no run directory with a checkpoint in it")
        self.directory = run / "replay"
        if "replay" not in state:
            raise ReplayError(f"{run} was packed without its replay; use fresh episodes")
        self.kept_bytes = kept_bytes
        self._kept: dict[str, dict[str, np.ndarray]] = {}  # by a chunk's name, the oldest first
        with store.report_incompatible(path):
            saved = state["replay"]
            # For each stream the episode that was open at the checkpoint, or the next one.
            self.collecting = [
                {
                    "number": check_integer(e["number"], "rollout.episodes[].number"),
                    "fresh": bool(e["fresh"]),
                }
                for e in state.get("rollout", {}).get("episodes", [])
            ]
            self.layout = Layout(
                {key: (tuple(shape), kind) for key, (shape, kind) in saved["spec"].items()}
            )
            self._check_spec(state)
            manifest = Manifest(saved, self.layout, MAX_CHUNK_ROWS)
        self.chunk_rows = manifest.chunk_rows
        self.chunks = sorted(manifest.chunks, key=lambda chunk: (chunk.stream, chunk.number))
        free = available_memory()
        for chunk in self.chunks:
            if 2 * chunk.rows * self.layout.row_bytes > free:
                raise ReplayError(
                    f"{self.directory / chunk.name} claims {chunk.rows} rows of "
                    f"{self.layout.row_bytes:,} bytes, more than memory can hold"
                )
            self._count_episodes(chunk)
        self.count = sum(chunk.episodes for chunk in self.chunks)

    def _check_spec(self, state: dict[str, Any]) -> None:
        """ReplayError unless the rows match the checkpoint's observations and actions."""
        check_spaces(state)
        size = state["action"]["size"]
        wanted: dict[str, tuple[tuple[int, ...], str]] = {
            "prev_action": ((size,), "f"),
            "reward": ((), "f"),
        }
        wanted |= {key: ((), "b") for key in ("is_first", "is_last", "is_terminal")}
        for key, sizes in check_observation(state).items():
            wanted[key] = (tuple(sizes), "u") if isinstance(sizes, list) else ((sizes,), "f")
        for key, (shape, kind) in wanted.items():
            there = self.layout.spec.get(key)
            if there is None or (there[0], there[1].kind) != (shape, kind):
                raise ReplayError(
                    f"{self.directory} holds {key!r} as {there}, which is not what its run has "
                    f"seen"
                )

    def _count_episodes(self, chunk: Chunk | CompressedChunk) -> None:
        """Count a chunk's episodes without keeping its rows in memory."""
        read = chunk.read_rows if isinstance(chunk, Chunk) else chunk.restore
        why = read(self.directory, self.layout, chunk.rows)
        if why:
            raise ReplayError(f"{self.directory / chunk.name} cannot be read ({why})")
        chunk.release()

    def read_episode(self, number: int) -> dict[str, np.ndarray]:
        """Return the rows (T,...) of an episode; negative numbers count from the last episode."""
        if not -self.count <= number < self.count:
            raise UsageError(f"there is no episode {number}: {self.directory} holds {self.count}")
        number %= self.count
        at, before = 0, 0
        while before + self.chunks[at].episodes <= number:
            before += self.chunks[at].episodes
            at += 1
        rows = self._read_columns(self.chunks[at])
        begin = int(np.flatnonzero(rows["is_first"])[number - before])
        rows = {key: column[begin:] for key, column in rows.items()}
        while _find_episode_end(rows) is None and self._continues(at):
            at += 1
            more = self._read_columns(self.chunks[at])
            rows = {key: np.concatenate([column, more[key]]) for key, column in rows.items()}
        return {key: column[: _find_episode_end(rows)] for key, column in rows.items()}

    def locate_episode(self, number: int) -> tuple[int, int]:
        """Return an episode's stream and the number of later episodes in that stream."""
        numbers = [(chunk.stream, chunk.episodes) for chunk in self.chunks]
        before = 0
        for stream, count in numbers:
            before += count
            if number < before:
                # Chunks are sorted by stream, so this counts the episodes up to the stream's end.
                end = sum(c for s, c in numbers if s <= stream)
                return stream, end - 1 - number
        raise UsageError(f"there is no episode {number}: {self.directory} holds {self.count}")

    def _continues(self, at: int) -> bool:
        """Say whether the rows of one chunk continue in the next."""
        if at + 1 == len(self.chunks):
            return False
        one, two = self.chunks[at], self.chunks[at + 1]
        return (one.stream, one.number + 1, one.rows) == (two.stream, two.number, self.chunk_rows)

    def _read_columns(self, chunk: Chunk | CompressedChunk) -> dict[str, np.ndarray]:
        """Read a chunk's rows as {key: (T,...)}."""
        if chunk.name in self._kept:
            return self._kept[chunk.name]
        out = self.layout.allocate_batch(1, chunk.rows)
        self.layout.copy_rows(
            chunk.read(self.directory, self.layout.dtype, 0, chunk.rows), out, 0, 0
        )
        rows = {key: value[0] for key, value in self.layout.unpack_flags(out).items()}
        if self.kept_bytes:
            self._kept[chunk.name] = rows
            while sum(map(_count_bytes, self._kept.values())) > self.kept_bytes:
                del self._kept[next(iter(self._kept))]
        return rows


def _count_bytes(rows: dict[str, np.ndarray]) -> int:
    return sum(column.nbytes for column in rows.values())


def _find_episode_end(rows: dict[str, np.ndarray]) -> int | None:
    """Find the end row of the episode that these rows begin with; None if it ends later.

    An episode ends after its last row or before the first row of another.
    """
    ends = [
        *(np.flatnonzero(rows["is_last"])[:1] + 1),
        *(np.flatnonzero(rows["is_first"][1:])[:1] + 1),
    ]
    return int(min(ends)) if ends else None
