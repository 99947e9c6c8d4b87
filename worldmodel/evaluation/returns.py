"""Returns over whole episodes, apart from training: own environments, own seeds, no replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldmodel.rollout import Policy, Rollout, Row


@dataclass
class Evaluation:
    """Scores and lengths in episode order, and the pictures of the first episode."""

    scores: list[float]
    lengths: list[int]
    video: list[np.ndarray]

    def summary(self, seed: int = 0) -> dict[str, float]:
        """Mean, spread and a 95 % bootstrap interval of the mean."""
        low, high = bootstrap_interval(np.array(self.scores), seed)
        return {
            "eval/score": float(np.mean(self.scores)),
            "eval/score_std": float(np.std(self.scores)),
            "eval/score_low": low,
            "eval/score_high": high,
            "eval/length": float(np.mean(self.lengths)),
            "eval/episodes": len(self.scores),
        }


def bootstrap_interval(scores: np.ndarray, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(0, len(scores), (draws, len(scores)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def run_episodes(
    rollout: Rollout, policy: Policy, episodes: int, on_step: Callable[[int], bool] | None = None
) -> Evaluation | None:
    """Whole episodes 0..episodes-1 by number; None where `on_step(episodes done)` asks to stop.

    With several environments each plays its share, so that short episodes are not over-represented.
    """
    count = rollout.envs.num_envs
    share = [len(range(i, episodes, count)) for i in range(count)]
    done: dict[tuple[int, int], tuple[float, int]] = {}
    video: list[np.ndarray] = []
    while len(done) < episodes:
        running = [e.number for e in rollout.episodes]
        lengths = [len(e.actions) for e in rollout.episodes]
        rows: list[Row] = rollout.step(policy)
        if running[0] == 0 and "image" in rows[0]:
            video.append(rows[0]["image"])
        finished = rollout.pop_finished()
        ended = [i for i, row in enumerate(rows) if row["is_last"]]
        for i, episode in zip(ended, finished, strict=True):
            if running[i] < share[i]:
                done[running[i], i] = (episode.score, lengths[i] + 1)
        if on_step and on_step(len(done)):
            return None
    results = [done[key] for key in sorted(done)]
    return Evaluation([r[0] for r in results], [r[1] for r in results], video)
