"""The contiguous runs of rows in each stream, between holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StartIndex:
    """Every row where a sequence of `length` rows can start, numbered from 0, run by run."""

    length: int
    # per run: its stream, its first row, and how many sequences can start in it; never 0
    streams: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return int(self.counts.sum())

    def locate(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Streams and rows of starts by number."""
        ends = np.cumsum(self.counts)
        which = np.searchsorted(ends, starts, side="right")
        return self.streams[which], self.firsts[which] + starts - (ends - self.counts)[which]

    def rows(self) -> np.ndarray:
        """The row of every start."""
        before = np.cumsum(self.counts) - self.counts
        return np.arange(len(self)) + np.repeat(self.firsts - before, self.counts)


class Segments:
    """[first row, end row] of each contiguous run, by stream.

    Rows are appended at the end and dropped from the front.
    """

    def __init__(self):
        self._runs: dict[int, list[list[int]]] = {}

    def extend(self, stream: int, first: int, rows: int) -> None:
        """Extend the stream's last run, or start a new run after a gap."""
        runs = self._runs.setdefault(stream, [])
        if not runs or runs[-1][1] != first:
            runs.append([first, first])
        runs[-1][1] += rows

    def drop(self, stream: int, rows: int) -> None:
        """Drop the oldest rows, which never span two runs."""
        runs = self._runs[stream]
        runs[0][0] += rows
        if runs[0][0] >= runs[0][1]:
            runs.pop(0)

    def index_starts(self, length: int) -> StartIndex:
        """Return where sequences of `length` rows can start, streams in order, old rows first."""
        table = np.array(
            [
                (stream, first, end - first - length + 1)
                for stream in sorted(self._runs)
                for first, end in self._runs[stream]
                if end - first >= length > 0
            ],
            np.int64,
        ).reshape(-1, 3)
        return StartIndex(length, *table.T)
