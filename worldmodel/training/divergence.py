"""What becomes of a run whose updates are no longer finite: back to the last good weights, a few
times, then an end.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch

from worldmodel.checkpoint import store
from worldmodel.errors import Diverged
from worldmodel.spaces import Batch
from worldmodel.training import training_state

if TYPE_CHECKING:
    from worldmodel.training.trainer import Training

log = logging.getLogger(__name__)

MOST = 3  # rollbacks of a run, after which it ends


def roll_back(t: Training, batch: Batch, error: Diverged) -> None:
    """Take weights and optimiser from the last good checkpoint; Diverged, with the batch kept,
    where that is no help.

    Experience, counters and generators stay: the updates that follow draw other batches than those
    that led here.
    """
    done = t.learner.rollbacks
    good = training_state.last_good(t) if done < MOST else None
    if good is None:
        tried = (
            f"{done} times the run went back to earlier weights, in vain"
            if done
            else "there is no good checkpoint"
        )
        raise Diverged(
            f"{error}, and {tried}. Ended at {t.frames} frames; {_kept(t, batch)}. To go on: "
            f"give a lower optim.lr or "
            "optim.clip, or --run.precision fp32, together with a new --run.name"
        ) from error
    training_state.restore_weights(t, good)
    t.learner.rolled_back()
    if t.world.main:
        log.warning(
            "%s: weights and optimiser are those of checkpoint %d again (rollback %d of at most "
            "%d); nothing "
            "that was collected is lost",
            error,
            good.step,
            done + 1,
            MOST,
        )


def _kept(t: Training, batch: Batch) -> str:
    """Write the batch for a post-mortem; a few words on where it and the checkpoints are."""
    path: Path = (
        t.run.path
        / "diverged"
        / f"batch-{t.learner.updates}{f'-{t.world.rank}' * (t.world.size > 1)}"
    )
    path = path.with_suffix(".safetensors")
    try:
        path.parent.mkdir(exist_ok=True)
        tensors = {k: v.cpu().contiguous() for k, v in batch.items()}
        path.write_bytes(
            safetensors.torch.save(
                tensors, {"updates": str(t.learner.updates), "frames": str(t.frames)}
            )
        )
    except OSError as error:
        return (
            f"the batch could not be written to {path} ({error.strerror}), the checkpoints are "
            f"untouched"
        )
    found = store.list_checkpoints(t.run.checkpoints)
    return f"the batch is in {path}, the newest checkpoint is {found[-1] if found else 'missing'}"
