"""Numbers of a run: JSON lines that can be cut back to a checkpoint, and TensorBoard."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

log = logging.getLogger(__name__)


class JsonLines:
    """An append-only file of JSON lines whose length can be remembered and gone back to."""

    def __init__(self, path: Path):
        self.path = path
        self.failed = False

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line; a full disk costs the line, never the run."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({k: _plain(v) for k, v in line.items()}) + "\n")
            self.failed = False
        except OSError as error:
            if not self.failed:
                log.warning("cannot write %s (%s); training goes on without it", self.path.name, error.strerror)
            self.failed = True

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop what was written after `size` bytes."""
        if self.path.exists() and self.size() > size:
            with self.path.open("r+b") as file:
                file.truncate(size)


class Means:
    """Running means of scalar metrics between two log lines; the tensors are only read when asked for."""

    def __init__(self):
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        for key, value in metrics.items():
            value = value.double() if isinstance(value, Tensor) else float(value)
            self.sums[key] = self.sums[key] + value if key in self.sums else value
            self.counts[key] = self.counts.get(key, 0) + 1

    def pop(self) -> dict[str, float]:
        means = {k: float(v) / self.counts[k] for k, v in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> dict:
        return {"sums": {k: float(v).hex() for k, v in self.sums.items()}, "counts": self.counts}

    def restore(self, state: dict) -> None:
        self.sums = {k: float.fromhex(v) for k, v in state["sums"].items()}
        self.counts = dict(state["counts"])


class Logger:
    """metrics.jsonl, scores.jsonl and TensorBoard, all keyed by environment frames."""

    def __init__(self, run_dir: Path, tensorboard: bool, purge_frame: int | None = None):
        self.metrics = JsonLines(run_dir / "metrics.jsonl")
        self.scores = JsonLines(run_dir / "scores.jsonl")
        self.board = _tensorboard(run_dir, purge_frame) if tensorboard else None

    def line(self, frames: int, values: Mapping[str, float], scores: bool = False) -> None:
        (self.scores if scores else self.metrics).write({"frames": frames, **values})
        for key, value in values.items():
            if isinstance(value, int | float):
                self._draw("add_scalar", key, value, frames)

    def image(self, frames: int, name: str, picture) -> None:
        """A picture (H,W,3) uint8 into TensorBoard."""
        self._draw("add_image", name, picture, frames, dataformats="HWC")

    def _draw(self, what: str, *args, **options) -> None:
        """Hand something to TensorBoard; a disk that refuses costs the board, never the run."""
        if self.board is None:
            return
        try:
            getattr(self.board, what)(*args, **options)
        except OSError as error:
            log.warning("TensorBoard cannot write (%s); training goes on without it", error.strerror or error)
            self.board = None

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def state(self) -> dict:
        return {"metrics": self.metrics.size(), "scores": self.scores.size()}

    def restore(self, state: dict) -> None:
        self.metrics.cut(state["metrics"])
        self.scores.cut(state["scores"])


def _tensorboard(run_dir: Path, purge_frame: int | None):
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(run_dir), purge_step=None if purge_frame is None else purge_frame + 1)
    except OSError as error:
        log.warning("TensorBoard cannot write to %s (%s); training goes on without it", run_dir.name, error.strerror)
        return None


def _plain(value: object) -> object:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
