"""Whole episodes played for an evaluation: own environments, own seeds, no replay."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.rollout.collector import Policy, Rollout
from worldmodel.rollout.montage import join_row
from worldmodel.rollout.statistics import bootstrap_interval, estimate_aggregates
from worldmodel.spaces import Row


@dataclass(frozen=True)
class CompressedVideo:
    """The pictures (T,H,W,3) uint8 of an episode, compressed: those of many episodes would not fit
    into memory.
    """

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def compress(cls, rows: list[Row]) -> CompressedVideo | None:
        """Compress the pictures of an episode's rows; None if there are none."""
        shown = _join_pictures(rows)
        if not shown:
            return None
        pictures = np.stack(shown)
        return cls(zlib.compress(pictures.tobytes(), 1), pictures.shape)

    def pictures(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.shape)


def _join_pictures(rows: list[Row]) -> list[np.ndarray]:
    """The pictures (H,W,3) of rows, several of one row side by side."""
    return [picture for row in rows if (picture := join_row(row)) is not None]


@dataclass
class Evaluation:
    """One entry per episode, in their order, and the rows of the first.

    `successes` says whether any step of an episode was a success, None if the task does not tell.
    """

    scores: list[float]
    lengths: list[int]
    first: list[Row]
    successes: list[bool | None] = field(default_factory=list)
    videos: list[CompressedVideo | None] = field(default_factory=list)
    achievements: list[dict[str, bool]] = field(default_factory=list)

    @property
    def video(self) -> list[np.ndarray]:
        """The pictures of the first episode."""
        return _join_pictures(self.first)

    def summarize(self, seed: int = 0) -> dict[str, float]:
        """Mean, spread and a 95 % bootstrap interval of the mean; the share of successes where it
        is known.
        """
        low, high = bootstrap_interval(np.array(self.scores), seed)
        found = {
            "eval/score": float(np.mean(self.scores)),
            "eval/score_std": float(np.std(self.scores)),
            "eval/score_low": low,
            "eval/score_high": high,
            "eval/length": float(np.mean(self.lengths)),
            "eval/episodes": len(self.scores),
        }
        known = [float(x) for x in self.successes if x is not None]
        if known:
            low, high = bootstrap_interval(np.array(known), seed)
            found |= {
                "eval/success": float(np.mean(known)),
                "eval/success_low": low,
                "eval/success_high": high,
            }
        return found | self.summarize_achievements()

    def summarize_achievements(self) -> dict[str, float]:
        """The share of episodes that reached each achievement, and Crafter's score: the geometric
        mean of these shares in per cent, each plus one.
        """
        names = sorted({name for reached in self.achievements for name in reached})
        if not names:
            return {}
        shares = {n: float(np.mean([r.get(n, False) for r in self.achievements])) for n in names}
        score = np.exp(np.mean([np.log1p(100 * share) for share in shares.values()])) - 1
        return {"eval/achievements": float(score)} | {f"eval/{n}": x for n, x in shares.items()}

    def estimate_iqm(self, seed: int = 0) -> dict[str, float]:
        """The interquartile mean over episodes and its 95 % bootstrap interval."""
        found = estimate_aggregates([np.array(self.scores)], seed)["iqm"]
        return {
            "eval/iqm": found["value"],
            "eval/iqm_low": found["low"],
            "eval/iqm_high": found["high"],
        }

    def pick_episodes(self) -> dict[str, int]:
        """The numbers of the best, the median (the lower of two) and the worst episode; the first
        of equals.
        """
        order = sorted(range(len(self.scores)), key=lambda i: self.scores[i])
        return {
            "best": max(order, key=lambda i: self.scores[i]),
            "median": order[(len(order) - 1) // 2],
            "worst": order[0],
        }


def run_episodes(
    rollout: Rollout,
    policy: Policy,
    episodes: int,
    on_step: Callable[[int], bool] | None = None,
    keep_videos: bool = False,
) -> Evaluation | None:
    """Play episodes 0 to episodes-1; None if `on_step(episodes done)` asks to stop.

    With several environments each plays its share, so that short episodes are not
    over-represented.
    """
    count = rollout.envs.num_envs
    share = [len(range(i, episodes, count)) for i in range(count)]
    done: dict[tuple[int, int], tuple[Any, ...]] = {}  # the columns of an Evaluation
    first: list[Row] = []
    open_rows: list[list[Row]] = [[] for _ in range(count)]
    while len(done) < episodes:
        running = [e.number for e in rollout.episodes]
        lengths = [len(e.actions) for e in rollout.episodes]
        rows: list[Row] = rollout.step(policy)
        if running[0] == 0:
            first.append(rows[0])
        for i in range(count):
            if keep_videos and running[i] < share[i]:
                open_rows[i].append(rows[i])
        finished = rollout.pop_finished()
        ended = [i for i, row in enumerate(rows) if row["is_last"]]
        for i, episode in zip(ended, finished, strict=True):
            if running[i] < share[i]:
                video, open_rows[i] = CompressedVideo.compress(open_rows[i]), []
                length, told = lengths[i] + 1, (episode.success, video, episode.achievements)
                done[running[i], i] = (episode.score, length, *told)
        if on_step and on_step(len(done)):
            return None
    results = [done[key] for key in sorted(done)]
    scores, steps, successes, videos, reached = (list(c) for c in zip(*results, strict=True))
    return Evaluation(scores, steps, first, successes, videos, reached)
