"""Numbers of a run: JSON lines that can be cut back to a checkpoint, and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.system.files import write_all

log = logging.getLogger(__name__)


class JsonLines:
    """An append-only file of JSON lines whose length can be remembered and gone back to."""

    def __init__(self, path: Path):
        self.path = path
        self.failed = False

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line, whole or not at all; a full disk costs the line, never the run."""
        data = json.dumps({k: _plain(v) for k, v in line.items()}).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    write_all(file.fileno(), memoryview(data))
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(before)
                    raise
            self.failed = False
        except OSError as error:
            if not self.failed:
                log.warning(
                    "cannot write %s (%s); training goes on without it",
                    self.path.name,
                    error.strerror,
                )
            self.failed = True

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop what was written after `size` bytes."""
        try:
            if self.path.exists() and self.size() > size:
                with self.path.open("r+b") as file:
                    file.truncate(size)
        except OSError as error:
            reason = "training goes on, and writes them a second time"
            log.warning(
                "%s keeps lines from after the checkpoint (%s); %s",
                self.path.name,
                error.strerror,
                reason,
            )


class Means:
    """Running means of scalar metrics between two log lines; the tensors are only read when asked
    for.

    Metrics that come together are added together, as one tensor.
    """

    def __init__(self):
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        names = tuple(metrics)
        values = torch.stack([v.float() for v in metrics.values()]).double()
        self.sums[names] = self.sums[names] + values if names in self.sums else values
        self.counts[names] = self.counts.get(names, 0) + 1

    def pop(self) -> dict[str, float]:
        sums, counts = dict[str, float](), dict[str, int]()
        for names, values in self.sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self.counts[names]
        self.sums, self.counts = {}, {}
        return {name: value / counts[name] for name, value in sums.items()}

    def state(self) -> list[dict]:
        return [
            {
                "sums": {k: v.hex() for k, v in zip(names, values.tolist(), strict=True)},
                "count": self.counts[names],
            }
            for names, values in self.sums.items()
        ]

    def restore(self, state: list[dict] | dict, device: torch.device) -> None:
        if isinstance(state, dict):  # as runs kept it before metrics were added together
            state = [
                {"sums": {k: v}, "count": state["counts"][k]} for k, v in state["sums"].items()
            ]
        self.sums, self.counts = {}, {}
        for group in state:
            names = tuple(group["sums"])
            values = [float.fromhex(v) for v in group["sums"].values()]
            self.sums[names] = torch.tensor(values, dtype=torch.float64, device=device)
            self.counts[names] = max(1, int(group["count"]))


class Logger:
    """metrics.jsonl, scores.jsonl and TensorBoard, all keyed by environment frames."""

    kept = {"metrics": int, "scores": int, "minutes": float}  # what a checkpoint remembers

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

    def video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """An animated GIF of a size (H,W) into TensorBoard, which plays it among the pictures."""
        if self.board is not None:
            self._draw("file_writer.add_summary", _moving(name, gif, size), frames)

    def _draw(self, what: str, *args, **options) -> None:
        """Have TensorBoard do something; a disk that refuses costs the board, never the run."""
        if self.board is None:
            return
        try:
            attrgetter(what)(self.board)(*args, **options)
        except OSError as error:
            log.warning(
                "TensorBoard cannot write (%s); training goes on without it",
                error.strerror or error,
            )
            self.board = None

    def close(self) -> None:
        self._draw("close")

    def state(self) -> dict:
        return {"metrics": self.metrics.size(), "scores": self.scores.size()}

    def restore(self, state: dict) -> None:
        self.metrics.cut(state["metrics"])
        self.scores.cut(state["scores"])


def _tensorboard(run_dir: Path, purge_frame: int | None):
    from torch.utils.tensorboard import SummaryWriter

    usual = threading.excepthook

    def calm(args: threading.ExceptHookArgs) -> None:
        """Its thread ends on a full disk, which `_draw` is told of in time: no traceback of it."""
        if not (
            isinstance(args.exc_value, OSError) and "AsyncWriter" in type(args.thread).__name__
        ):
            usual(args)

    threading.excepthook = calm
    try:
        return SummaryWriter(
            str(run_dir), purge_step=None if purge_frame is None else purge_frame + 1
        )
    except OSError as error:
        log.warning(
            "TensorBoard cannot write to %s (%s); training goes on without it",
            run_dir.name,
            error.strerror,
        )
        return None


def _moving(name: str, gif: bytes, size: tuple[int, int]):
    """A summary that holds an animated picture; torch's own add_video would want moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    picture = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
    return Summary(value=[Summary.Value(tag=name, image=picture)])


def _plain(value: object) -> object:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
