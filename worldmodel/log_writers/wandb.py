"""Weights & Biases: online where the user is logged in, otherwise files for `wandb sync`."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.log_writers import STEP_KEY, LoggedRun, read_or_make_id

log = logging.getLogger(__name__)

START_SECONDS, END_SECONDS = 30, 60  # to wait for the network, at most


class Settings:
    package = "wandb"


class Wandb:
    """Logs one W&B run, which a resumed training continues."""

    def __init__(self, run: LoggedRun, resumed_at: int | None):
        import wandb

        self.wandb, self.logged = wandb, run
        # Nothing asks for a key: a training must not wait at a prompt.
        try:
            is_known = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
            self.run = self._start(None if is_known else "offline")
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("wandb: %s; this run is logged offline, for wandb sync", reason)
            wandb.teardown()  # its service still holds the id
            self.run = self._start("offline")
        # W&B's own step may not go back, and a resumed run repeats what came after its checkpoint.
        self.run.define_metric("*", step_metric=STEP_KEY)

    def _start(self, mode: str | None) -> Any:
        settings = self.wandb.Settings(
            console="off",  # it belongs to the training
            silent=True,
            init_timeout=START_SECONDS,
            finish_timeout=END_SECONDS,
        )
        return self.wandb.init(
            project=self.logged.project,
            name=self.logged.name,
            id=read_or_make_id(self.logged.path),
            resume="allow",
            mode=mode,
            config=self.logged.hparams,
            settings=settings,
        )

    def add_scalars(self, frames: int, values: Mapping[str, float]) -> None:
        self.run.log({STEP_KEY: frames, **values})

    def add_picture(self, frames: int, name: str, picture: np.ndarray) -> None:
        self.run.log({STEP_KEY: frames, name: self.wandb.Image(picture)})

    def add_video(self, frames: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        video = self.wandb.Video(io.BytesIO(gif), format="gif")
        self.run.log({STEP_KEY: frames, name: video})

    def close(self) -> None:
        self.run.finish()
