"""The contiguous runs of rows in each stream, between holes."""

from __future__ import annotations

import numpy as np


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

    def starts(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each run's stream, first row and number of possible sequence starts."""
        flat = [(stream, a, b - a) for stream in sorted(self._runs) for a, b in self._runs[stream]]
        table = np.array(flat, np.int64).reshape(-1, 3)
        return table[:, 0], table[:, 1], np.maximum(table[:, 2] - length + 1, 0)
