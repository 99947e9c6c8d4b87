"""Logs the metrics of a run to JSON lines, which a resume cuts back, and to its log writers."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.log_writers import LogWriter, add_field_keys
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


WriterStart = Callable[[int | None], LogWriter]  # called with the frames it resumes at


class Logger:
    """Writes metrics.jsonl, scores.jsonl and to the log writers, all keyed by environment frames.

    Nothing is written before `open`: only rank 0 opens its logger, and not for a finished run.
    """

    def __init__(self, run_dir: Path, starts: Mapping[str, WriterStart]):
        self.run_dir, self.starts = run_dir, starts
        self.metrics = JsonLines(run_dir / "metrics.jsonl")
        self.scores = JsonLines(run_dir / "scores.jsonl")
        self.writers: dict[str, LogWriter] = {}
        self.is_open = False
        self.began, self.minutes_before = time.monotonic(), 0.0
        self.processor_began, self.processor_before = time.process_time(), 0.0
        self._resumed: dict[str, Any] | None = None

    def open(self, frames: int) -> None:
        """Start writing at this frame; lines from after the checkpoint are cut away."""
        saved = self._resumed or {
            "metrics": 0,
            "scores": 0,
            "minutes": 0.0,
            "processor_minutes": 0.0,
        }
        self.metrics.cut(int(saved["metrics"]), frames)
        self.scores.cut(int(saved["scores"]), frames)
        self.minutes_before = float(saved["minutes"])
        # Checkpoints of earlier versions have none: then it stays unknown (NaN).
        self.processor_before = float(saved.get("processor_minutes", math.nan))
        for name, start in self.starts.items():
            try:
                self.writers[name] = start(frames if self._resumed else None)
            except Exception as error:
                _report_failure(name, error)
        self.is_open = True

    @property
    def minutes(self) -> float:
        """Wall-clock minutes spent on this run so far, earlier commands included."""
        return self.minutes_before + (time.monotonic() - self.began) / 60

    @property
    def processor_minutes(self) -> float:
        """Minutes of processor time of this process, earlier commands included; NaN: unknown."""
        return self.processor_before + (time.process_time() - self.processor_began) / 60

    def measure_times(self) -> dict[str, float]:
        """The times that a line of the log has."""
        times = {"minutes": self.minutes, "processor_minutes": self.processor_minutes}
        return {f"time/{name}": x for name, x in times.items() if not math.isnan(x)}

    def write_metrics(self, frames: int, values: Mapping[str, float]) -> None:
        self._write(self.metrics, frames, values)

    def write_scores(self, frames: int, values: Mapping[str, float]) -> None:
        self._write(self.scores, frames, values)

    def _write(self, lines: JsonLines, frames: int, values: Mapping[str, float]) -> None:
        if not self.is_open:
            return
        lines.write({"frames": frames, **values})
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._call_writers("add_scalars", frames, add_field_keys(numbers))

    def add_picture(self, frames: int, name: str, picture: np.ndarray) -> None:
        """Add a picture (H,W,3) uint8."""
        self._call_writers("add_picture", frames, name, picture)

    def add_video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Add an animated GIF of a size (H,W)."""
        self._call_writers("add_video", frames, name, gif, size)

    def _call_writers(self, what: str, *args: Any) -> None:
        """Call a method of every writer; one that fails costs its output, never the run."""
        for name, writer in list(self.writers.items()):
            try:
                getattr(writer, what)(*args)
            except Exception as error:  # of whatever kind its package raises
                _report_failure(name, error)
                del self.writers[name]

    def close(self) -> None:
        self._call_writers("close")

    def state_dict(self) -> dict[str, Any] | None:
        if not self.is_open:
            return None
        sizes = {"metrics": self.metrics.size(), "scores": self.scores.size()}
        times = {"minutes": self.minutes, "processor_minutes": self.processor_minutes}
        return {**sizes, **{name: x for name, x in times.items() if not math.isnan(x)}}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Remember how long the files were; `open` cuts them."""
        self._resumed = state


def _report_failure(name: str, error: Exception) -> None:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    log.warning(
        "%s cannot log (%s); training goes on without it", name, reason or type(error).__name__
    )


def _plain(value: object) -> object:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
