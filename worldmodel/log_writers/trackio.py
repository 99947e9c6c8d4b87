"""trackio: a dashboard on this machine, without an account."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping

import numpy as np

from worldmodel.log_writers import LoggedRun, read_or_make_id


class Settings:
    package = "trackio"


class Trackio:
    """Logs one trackio run, which a resumed training continues."""

    def __init__(self, run: LoggedRun, resumed_at: int | None):
        import trackio

        self.trackio = trackio
        with contextlib.redirect_stdout(io.StringIO()):  # how to open its dashboard, in colours
            self.run = trackio.init(
                project=run.project,
                name=f"{run.name}-{read_or_make_id(run.path)}",
                resume="allow",
                config=run.hparams,
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def add_scalars(self, frames: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=frames)

    def add_picture(self, frames: int, name: str, picture: np.ndarray) -> None:
        self.run.log({name: self.trackio.Image(picture)}, step=frames)

    def add_video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        with tempfile.NamedTemporaryFile(suffix=".gif") as file:  # trackio copies it at once
            file.write(gif)
            file.flush()
            self.run.log({name: self.trackio.Video(file.name)}, step=frames)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.finish()
