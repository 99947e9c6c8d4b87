"""Logs the metrics of a run to JSON lines, which a resume cuts back, and to TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.system.files import (
    open_regular,
    quarantine,
    read_small_file,
    replace_file,
    write_all,
)

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 40  # of a log
LINE_START = re.compile(rb'(?=\{"frames": )')


class JsonLines:
    """An append-only file of JSON lines that can be cut back to an earlier length."""

    def __init__(self, path: Path):
        self.path = path
        self.failed = False

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line, whole or not at all; a full disk costs the line, never the run."""
        data = json.dumps({k: _plain(v) for k, v in line.items()}).encode() + b"\n"
        try:
            with open(self.path, "ab", buffering=0, opener=open_regular) as file:
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

    def cut(self, size: int, frames: int) -> None:
        """Drop what was written after a checkpoint, which has noted `size` bytes and `frames`."""
        try:
            data = read_small_file(self.path, MAX_BYTES) if self.path.exists() else b""
            if len(data) < size or not _are_lines(data[:size]):
                self._mend(data, size, frames)
            elif len(data) > size:
                with open(self.path, "r+b", opener=open_regular) as file:
                    file.truncate(size)
        except OSError as error:
            reason = "training goes on, and writes them again"
            log.warning(
                "%s keeps lines from after the checkpoint (%s); %s",
                self.path.name,
                error.strerror,
                reason,
            )

    def _mend(self, data: bytes, size: int, frames: int) -> None:
        """Keep the whole lines of a damaged file, up to these frames, and the file as it was."""
        pieces = [piece.strip(b"\0\r\n ") for piece in LINE_START.split(data)]
        lines = [piece + b"\n" for piece in pieces if _read_frames(piece) <= frames]
        place = f"; as it was it is {quarantine(self.path, 'damaged')}" if data else ""
        replace_file(self.path, b"".join(lines).decode())
        log.warning(
            "%s is %s: %d of its %d bytes up to the checkpoint are left in whole lines%s; "
            "training goes on",
            self.path,
            "damaged" if data else "missing or empty",
            sum(map(len, lines)),
            size,
            place,
        )


def _are_lines(data: bytes) -> bool:
    *lines, rest = data.split(b"\n")
    return not rest and all(_read_frames(line) < math.inf for line in lines)


def _read_frames(line: bytes) -> float:
    """Return the frames that a line was written at; infinity if it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(line.decode())
        frames = values.get("frames") if isinstance(values, dict) else None
        if isinstance(frames, int):
            return frames
    return math.inf


class Means:
    """Running means of scalar metrics between two log lines.

    Metrics that come together are added as one tensor; nothing waits for the device before `pop`.
    """

    def __init__(self, device: torch.device | None = None):
        self.device = device
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        names = tuple(metrics)
        values = torch.stack([v.float() for v in metrics.values()]).double()
        self.sums[names] = self.sums[names] + values if names in self.sums else values
        self.counts[names] = self.counts.get(names, 0) + 1

    def pop(self) -> dict[str, float]:
        """Return the means and start again."""
        sums, counts = dict[str, float](), dict[str, int]()
        for names, values in self.sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self.counts[names]
        self.sums, self.counts = {}, {}
        return {name: value / counts[name] for name, value in sums.items()}

    def state_dict(self) -> list[dict]:
        return [
            {
                "sums": {k: v.hex() for k, v in zip(names, values.tolist(), strict=True)},
                "count": self.counts[names],
            }
            for names, values in self.sums.items()
        ]

    def load_state_dict(self, state: list[dict] | dict) -> None:
        if isinstance(state, dict):  # the form that earlier versions saved
            state = [
                {"sums": {k: v}, "count": state["counts"][k]} for k, v in state["sums"].items()
            ]
        self.sums, self.counts = {}, {}
        for group in state:
            names = tuple(group["sums"])
            values = [float.fromhex(v) for v in group["sums"].values()]
            self.sums[names] = torch.tensor(values, dtype=torch.float64, device=self.device)
            self.counts[names] = max(1, int(group["count"]))


class Logger:
    """Writes metrics.jsonl, scores.jsonl and TensorBoard, all keyed by environment frames.

    Nothing is written before `open`: only rank 0 opens its logger, and not for a finished run.
    """

    def __init__(self, run_dir: Path, tensorboard: bool):
        self.run_dir, self.tensorboard = run_dir, tensorboard
        self.metrics = JsonLines(run_dir / "metrics.jsonl")
        self.scores = JsonLines(run_dir / "scores.jsonl")
        self.board: Any = None
        self.is_open = False
        self.began, self.minutes_before = time.monotonic(), 0.0
        self._resumed: dict[str, Any] | None = None

    def open(self, frames: int) -> None:
        """Start writing at this frame; lines from after the checkpoint are cut away."""
        saved = self._resumed or {"metrics": 0, "scores": 0, "minutes": 0.0}
        self.metrics.cut(int(saved["metrics"]), frames)
        self.scores.cut(int(saved["scores"]), frames)
        self.minutes_before = float(saved["minutes"])
        if self.tensorboard:
            self.board = _open_tensorboard(self.run_dir, frames if self._resumed else None)
        self.is_open = True

    @property
    def minutes(self) -> float:
        """Wall-clock minutes spent on this run so far, earlier commands included."""
        return self.minutes_before + (time.monotonic() - self.began) / 60

    def write_metrics(self, frames: int, values: Mapping[str, float]) -> None:
        self._write(self.metrics, frames, values)

    def write_scores(self, frames: int, values: Mapping[str, float]) -> None:
        self._write(self.scores, frames, values)

    def _write(self, lines: JsonLines, frames: int, values: Mapping[str, float]) -> None:
        if not self.is_open:
            return
        lines.write({"frames": frames, **values})
        for key, value in values.items():
            if isinstance(value, int | float):
                self._call_board("add_scalar", key, value, frames)

    def add_image(self, frames: int, name: str, picture) -> None:
        """Add a picture (H,W,3) uint8 to TensorBoard."""
        self._call_board("add_image", name, picture, frames, dataformats="HWC")

    def add_video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Add an animated GIF of a size (H,W) to TensorBoard, which plays it as a picture."""
        if self.board is not None:
            self._call_board("file_writer.add_summary", _make_gif_summary(name, gif, size), frames)

    def _call_board(self, what: str, *args, **options) -> None:
        """Call a method of TensorBoard's writer; a full disk costs the board, never the run."""
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
        self._call_board("close")

    def state_dict(self) -> dict[str, Any] | None:
        if not self.is_open:
            return None
        sizes = {"metrics": self.metrics.size(), "scores": self.scores.size()}
        return {**sizes, "minutes": self.minutes}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Remember how long the files were; `open` cuts them."""
        self._resumed = state


def _open_tensorboard(run_dir: Path, purge_frame: int | None):
    from torch.utils.tensorboard import SummaryWriter

    usual = threading.excepthook

    def report_thread_error(args: threading.ExceptHookArgs) -> None:
        """Hide the traceback of its thread on a full disk: `_call_board` reports that."""
        if not (
            isinstance(args.exc_value, OSError) and "AsyncWriter" in type(args.thread).__name__
        ):
            usual(args)

    threading.excepthook = report_thread_error
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


def _make_gif_summary(name: str, gif: bytes, size: tuple[int, int]):
    """Return a summary with an animated picture; torch's own add_video needs moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    picture = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
    return Summary(value=[Summary.Value(tag=name, image=picture)])


def _plain(value: object) -> object:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
