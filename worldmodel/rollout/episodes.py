"""Returns over whole episodes, apart from training: own environments, own seeds, no replay."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from worldmodel.rollout.collector import Policy, Rollout
from worldmodel.rollout.montage import join_row
from worldmodel.rollout.statistics import PERCENTILES, estimate_aggregates
from worldmodel.spaces import Row


@dataclass(frozen=True)
class Film:
    """The pictures (T,H,W,3) uint8 of an episode, packed: those of many episodes would not fit
    into memory.
    """

    packed: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, rows: list[Row]) -> Film | None:
        """None where there are no pictures."""
        shown = _shown(rows)
        if not shown:
            return None
        pictures = np.stack(shown)
        return cls(zlib.compress(pictures.tobytes(), 1), pictures.shape)

    def pictures(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)


def _shown(rows: list[Row]) -> list[np.ndarray]:
    """The pictures (H,W,3) of rows, several of one row side by side."""
    return [picture for row in rows if (picture := join_row(row)) is not None]


@dataclass
class Evaluation:
    """One entry per episode, in their order, and the rows of the first.

    `successes` says whether the task called any step of an episode a success, None where it says
    nothing of the kind.
    """

    scores: list[float]
    lengths: list[int]
    first: list[Row]
    successes: list[bool | None] = field(default_factory=list)
    films: list[Film | None] = field(default_factory=list)

    @property
    def video(self) -> list[np.ndarray]:
        """The pictures of the first episode."""
        return _shown(self.first)

    def summary(self, seed: int = 0) -> dict[str, float]:
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
        return found

    def robust(self, seed: int = 0) -> dict[str, float]:
        """The interquartile mean over episodes and its 95 % bootstrap interval."""
        found = estimate_aggregates([np.array(self.scores)], seed)["iqm"]
        return {
            "eval/iqm": found["value"],
            "eval/iqm_low": found["low"],
            "eval/iqm_high": found["high"],
        }

    def places(self) -> dict[str, int]:
        """Which episode was the best, the median one (the lower of two) and the worst; the first
        of equals.
        """
        order = sorted(range(len(self.scores)), key=lambda i: self.scores[i])
        return {
            "best": max(order, key=lambda i: self.scores[i]),
            "median": order[(len(order) - 1) // 2],
            "worst": order[0],
        }


FEW = 5  # episodes or starts below which an interval says little


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """`bootstrap_interval`, and NaN of a single value: nothing is known of how far others would
    lie.
    """
    return bootstrap_interval(values, seed) if len(values) > 1 else (float("nan"), float("nan"))


def doubts(over: str, count: int) -> list[str]:
    """A line on intervals over few of what `over` names; none where there are enough."""
    return (
        [f"{over}: {'no intervals' if count == 1 else 'intervals over so few say little'}"]
        if count < FEW
        else []
    )


def spoken(low: float, high: float, count: int) -> str:
    """An interval in words; of few values with a warning, of a single one none."""
    if count < 2:
        return "no interval of one"
    return f"95 % interval {low:.1f} to {high:.1f}" + ", which says little of so few" * (
        count < FEW
    )


def bootstrap_interval(
    scores: np.ndarray, seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(0, len(scores), (draws, len(scores)))].mean(1)
    low, high = np.percentile(means, PERCENTILES)
    return float(low), float(high)


def run_episodes(
    rollout: Rollout,
    policy: Policy,
    episodes: int,
    on_step: Callable[[int], bool] | None = None,
    films: bool = False,
) -> Evaluation | None:
    """Whole episodes 0..episodes-1 by number; None where `on_step(episodes done)` asks to stop.

    With several environments each plays its share, so that short episodes are not
    over-represented.
    """
    count = rollout.envs.num_envs
    share = [len(range(i, episodes, count)) for i in range(count)]
    done: dict[tuple[int, int], tuple[float, int, bool | None, Film | None]] = {}
    first: list[Row] = []
    open_rows: list[list[Row]] = [[] for _ in range(count)]
    while len(done) < episodes:
        running = [e.number for e in rollout.episodes]
        lengths = [len(e.actions) for e in rollout.episodes]
        rows: list[Row] = rollout.step(policy)
        if running[0] == 0:
            first.append(rows[0])
        for i in range(count):
            if films and running[i] < share[i]:
                open_rows[i].append(rows[i])
        finished = rollout.pop_finished()
        ended = [i for i, row in enumerate(rows) if row["is_last"]]
        for i, episode in zip(ended, finished, strict=True):
            if running[i] < share[i]:
                film, open_rows[i] = Film.of(open_rows[i]), []
                done[running[i], i] = (episode.score, lengths[i] + 1, episode.success, film)
        if on_step and on_step(len(done)):
            return None
    results = [done[key] for key in sorted(done)]
    scores, steps, successes, packed = (list(column) for column in zip(*results, strict=True))
    return Evaluation(scores, steps, first, successes, packed)
