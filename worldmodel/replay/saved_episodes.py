"""Whole episodes out of a saved run's replay, whose files are read and never touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.checkpoint import store
from worldmodel.checkpoint.validate import check_integer, check_spaces
from worldmodel.replay.chunk import Chunk, Layout, ReplayError
from worldmodel.replay.compressed_chunk import PackedChunk
from worldmodel.replay.manifest import Manifest
from worldmodel.system.available_memory import available_memory

MOST_ROWS = 1 << 16  # of a chunk


class SavedEpisodes:
    """The episodes that a run's newest checkpoint knows of, environment by environment in the
    order of collection.
    """

    def __init__(self, run: Path):
        path, state = next(store.iterate_states(run / "checkpoints"), (run, None))
        if state is None:
            raise ValueError(f"{run} is no run directory with a checkpoint in it")
        self.directory = run / "replay"
        with store.report_incompatible(path):
            saved = state["replay"]
            # By stream: the open episode, or the next one.
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
            manifest = Manifest(saved, self.layout, MOST_ROWS)
        self.chunk_rows = manifest.chunk_rows
        self.chunks = sorted(manifest.chunks, key=lambda chunk: (chunk.stream, chunk.number))
        free = available_memory()
        for chunk in self.chunks:
            if 2 * chunk.rows * self.layout.row_bytes > free:
                raise ReplayError(
                    f"{self.directory / chunk.name} is said to hold {chunk.rows} rows of "
                    f"{self.layout.row_bytes:,} bytes, more than memory has room for"
                )
            self._check(chunk)
        self.count = sum(chunk.episodes for chunk in self.chunks)

    def _check_spec(self, state: dict[str, Any]) -> None:
        """ReplayError unless rows hold what the checkpoint says is seen and done."""
        check_spaces(state)
        seen, size = state["observation"], state["action"]["size"]
        wanted: dict[str, tuple[tuple[int, ...], str]] = {
            "prev_action": ((size,), "f"),
            "reward": ((), "f"),
        }
        wanted |= {key: ((), "b") for key in ("is_first", "is_last", "is_terminal")}
        wanted |= {"image": (tuple(seen["image"]), "u")} if seen["image"] else {}
        wanted |= {"vector": ((seen["vector"],), "f")} if seen["vector"] else {}
        for key, (shape, kind) in wanted.items():
            there = self.layout.spec.get(key)
            if there is None or (there[0], there[1].kind) != (shape, kind):
                raise ReplayError(
                    f"{self.directory} holds {key!r} as {there}, which is not what its run has "
                    f"seen"
                )

    def _check(self, chunk: Chunk | PackedChunk) -> None:
        """Count a chunk's episodes; its rows are read again when they are wanted."""
        read = chunk.take_in if isinstance(chunk, Chunk) else chunk.restore
        why = read(self.directory, self.layout, chunk.rows)
        if why:
            raise ValueError(f"{self.directory / chunk.name} cannot be read ({why})")
        chunk.release()

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Rows (T,...) of an episode by number; a negative one counts from the last. ValueError
        where it is not.
        """
        if not -self.count <= number < self.count:
            raise ValueError(f"there is no episode {number}: {self.directory} holds {self.count}")
        number %= self.count
        at, before = 0, 0
        while before + self.chunks[at].episodes <= number:
            before += self.chunks[at].episodes
            at += 1
        rows = self._columns(self.chunks[at])
        begin = int(np.flatnonzero(rows["is_first"])[number - before])
        rows = {key: column[begin:] for key, column in rows.items()}
        while _end(rows) is None and self._goes_on(at):
            at += 1
            more = self._columns(self.chunks[at])
            rows = {key: np.concatenate([column, more[key]]) for key, column in rows.items()}
        return {key: column[: _end(rows)] for key, column in rows.items()}

    def place(self, number: int) -> tuple[int, int]:
        """The stream of an episode, and how many more of that stream came after it."""
        numbers = [(chunk.stream, chunk.episodes) for chunk in self.chunks]
        before = 0
        for stream, count in numbers:
            before += count
            if number < before:
                through = sum(c for s, c in numbers if s <= stream)  # chunks lie stream by stream
                return stream, through - 1 - number
        raise ValueError(f"there is no episode {number}: {self.directory} holds {self.count}")

    def _goes_on(self, at: int) -> bool:
        """Whether the rows of one chunk continue in the next."""
        if at + 1 == len(self.chunks):
            return False
        one, two = self.chunks[at], self.chunks[at + 1]
        return (one.stream, one.number + 1, one.rows) == (two.stream, two.number, self.chunk_rows)

    def _columns(self, chunk: Chunk | PackedChunk) -> dict[str, np.ndarray]:
        """A chunk's rows, key by key."""
        out = self.layout.empty(1, chunk.rows)
        self.layout.copy(chunk.read(self.directory, self.layout.dtype, 0, chunk.rows), out, 0, 0)
        return {key: value[0] for key, value in self.layout.unpack(out).items()}


def _end(rows: dict[str, np.ndarray]) -> int | None:
    """Where the episode that these rows begin with ends: after its last row or before another's
    first; None: later.
    """
    ends = [
        *(np.flatnonzero(rows["is_last"])[:1] + 1),
        *(np.flatnonzero(rows["is_first"][1:])[:1] + 1),
    ]
    return int(min(ends)) if ends else None
