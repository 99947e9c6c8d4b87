"""Which runs of rows are whole: the contiguous pieces of each stream, between holes."""

from __future__ import annotations

import numpy as np


class Segments:
    """[first row, end row] of each contiguous run, by stream; rows come at the end and leave from
    the front.
    """

    def __init__(self):
        self._runs: dict[int, list[list[int]]] = {}

    def extend(self, stream: int, first: int, rows: int) -> None:
        """Lengthen the stream's last run, or open one where there is a gap."""
        runs = self._runs.setdefault(stream, [])
        if not runs or runs[-1][1] != first:
            runs.append([first, first])
        runs[-1][1] += rows

    def drop(self, stream: int, rows: int) -> None:
        """Take the oldest rows away; they never span two runs."""
        runs = self._runs[stream]
        runs[0][0] += rows
        if runs[0][0] >= runs[0][1]:
            runs.pop(0)

    def starts(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per run its stream, its first row and how many sequences can start in it."""
        flat = [(stream, a, b - a) for stream in sorted(self._runs) for a, b in self._runs[stream]]
        table = np.array(flat, np.int64).reshape(-1, 3)
        return table[:, 0], table[:, 1], np.maximum(table[:, 2] - length + 1, 0)
