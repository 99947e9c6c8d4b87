"""TensorBoard's event files in the run directory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.log_writers import LoggedRun


class Settings:
    package = "tensorboard"


class TensorBoard:
    """Writes event files; entries from after a checkpoint are marked as void on resume."""

    def __init__(self, run: LoggedRun, resumed_at: int | None):
        from torch.utils.tensorboard.summary import hparams

        hide_thread_errors()
        self.board = open_board(run, None if resumed_at is None else resumed_at + 1)
        for summary in hparams(run.hparams, {"eval/score": 0.0}):
            self.board.file_writer.add_summary(summary)

    def add_scalars(self, frames: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.board.add_scalar(key, value, frames)

    def add_picture(self, frames: int, name: str, picture: np.ndarray) -> None:
        self.board.add_image(name, picture, frames, dataformats="HWC")

    def add_video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Add the GIF as a picture, which TensorBoard plays; torch's add_video needs moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        picture = Summary.Image(
            height=size[0], width=size[1], colorspace=3, encoded_image_string=gif
        )
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        self.board.file_writer.add_summary(summary, frames)

    def close(self) -> None:
        self.board.close()


def open_board(run: LoggedRun, purge_step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Absolute, because its thread opens the file later, when the working directory may differ.
    return SummaryWriter(str(run.path.absolute()), purge_step=purge_step)


def hide_thread_errors() -> None:
    """Hide the traceback of TensorBoard's own thread on a full disk: the logger reports that."""
    usual = threading.excepthook

    def report_thread_error(args: threading.ExceptHookArgs) -> None:
        if not (
            isinstance(args.exc_value, OSError) and "AsyncWriter" in type(args.thread).__name__
        ):
            usual(args)

    threading.excepthook = report_thread_error
