"""Where a play session starts: a new episode, or a step of the replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.errors import UsageError, WorldModelError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.collector import make_episode_seeds
from worldmodel.spaces import Columns
from worldmodel.system.runtime import STREAMS


@dataclass(frozen=True)
class SessionStart:
    """`rows` (T,...) lead up to it; seed, if known, and actions (N,A) restore the simulator.

    `key` identifies the start: with the session's seed it determines the random draws.
    """

    label: str
    key: tuple[int, ...]
    rows: Columns
    seed: int | None
    actions: np.ndarray


class ReplayStarts:
    """The starts in the replay of a run; `problem` says why there are none.

    `seed` is the one the run was trained with.
    """

    def __init__(self, run: Path, seed: int):
        self.seed, self.problem = seed, ""
        self.saved: SavedEpisodes | None = None
        try:
            self.saved = SavedEpisodes(run)
        except (WorldModelError, OSError) as error:
            self.problem = f"the replay cannot be read ({error})"
        if self.saved and not self.saved.count:
            self.saved, self.problem = None, "the replay holds no episode"

    @property
    def count(self) -> int:
        return self.saved.count if self.saved else 0

    def make_start(self, number: int, step: int) -> SessionStart:
        """A step of an episode; negative numbers count from the last."""
        if self.saved is None:
            raise UsageError(f"{self.problem}: start a new episode")
        rows = self.saved.read_episode(number)
        length = len(rows["is_first"])
        if not -length <= step < length:
            raise UsageError(
                f"step: there is no step {step} in episode {number}, which has {length}"
            )
        number, step = number % self.saved.count, step % length
        rows = {k: v[: step + 1] for k, v in rows.items()}
        return SessionStart(
            f"step {step} of the replay's episode {number}",
            (1, number, step),
            rows,
            self._find_seed(self.saved, number),
            rows["prev_action"][1:],
        )

    def _find_seed(self, saved: SavedEpisodes, number: int) -> int | None:
        """The seed with which this episode was collected, counted from the newest number."""
        stream, after = saved.locate_episode(number)
        if stream >= len(saved.collecting):
            return None  # another rank collected it
        last = saved.collecting[stream]["number"] - int(saved.collecting[stream]["fresh"])
        seeds = make_episode_seeds(self.seed, STREAMS["collect"])
        return seeds(stream, last - after) if last >= after else None
