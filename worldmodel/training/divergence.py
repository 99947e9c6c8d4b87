"""Recovery from updates that are not finite: back to the last good weights, a few times."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from worldmodel.checkpoint import store
from worldmodel.errors import Diverged
from worldmodel.spaces import Batch
from worldmodel.system.files import replace_file
from worldmodel.training.learner import Learner
from worldmodel.training.training_state import TrainingState

log = logging.getLogger(__name__)

MAX_ROLLBACKS = 3  # of a run, after which it ends


@dataclass
class Recovery:
    """Rolls weights and optimizers back to the last good checkpoint when updates diverge."""

    learner: Learner
    state: TrainingState
    run_dir: Path

    def roll_back(self, error: Diverged, batch: Batch, frames: int) -> None:
        """Restore the last good weights; if that is not possible, keep the batch and end the run.

        Experience, counters and generators stay: the next updates draw other batches than those
        that diverged.
        """
        done = self.learner.rollbacks
        good = self.state.load_last_good() if done < MAX_ROLLBACKS else None
        if good is None:
            tried = (
                f"{done} times the run went back to earlier weights, in vain"
                if done
                else "there is no good checkpoint"
            )
            raise Diverged(
                f"{error}, and {tried}. Ended at {frames} frames; {self._keep(batch, frames)}. "
                "To go on: give a lower optim.lr or optim.clip, or --run.precision fp32, together "
                "with a new --run.name"
            ) from error
        self.state.restore_weights(good)
        self.learner.count_rollback()
        if self.learner.world.main:
            log.warning(
                "%s: weights and optimiser are those of checkpoint %d again (rollback %d of at "
                "most %d); nothing that was collected is lost",
                error,
                good.step,
                done + 1,
                MAX_ROLLBACKS,
            )

    def _keep(self, batch: Batch, frames: int) -> str:
        """Write the batch for a post-mortem; say where it and the checkpoints are."""
        updates, world = self.learner.updates, self.learner.world
        suffix = f"-{world.rank}" if world.size > 1 else ""
        path = self.run_dir / "diverged" / f"batch-{updates}{suffix}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            tensors = {k: v.cpu().contiguous() for k, v in batch.items()}
            facts = {"updates": str(updates), "frames": str(frames)}
            replace_file(path, safetensors.torch.save(tensors, facts))
        except OSError as error:
            return (
                f"the batch could not be written to {path} ({error.strerror}), the checkpoints "
                "are untouched"
            )
        found = store.list_checkpoints(self.state.checkpoints)
        newest = found[-1] if found else "missing"
        return f"the batch is in {path}, the newest checkpoint is {newest}"
