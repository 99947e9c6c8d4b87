"""One saved model driven in several ways: what each earns, and how long it thinks about an action."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from worldmodel.player import Player
from worldmodel.rollout import Row

# How a run can be driven, as changes to its configuration; those that need an actor or a critic say so.
ACTOR = [("behavior.name", "actor_critic")]
PLAN = [("behavior.name", "mpc"), ("planner.score", "reward"), ("planner.proposals", "0")]
CLOSED = [("behavior.name", "mpc"), ("planner.score", "reward+value"), ("planner.proposals", "0")]


def drivers(candidates: int, learned: bool) -> dict[str, list[tuple[str, str]]]:
    """Names to changes; a twentieth of a seeded planner's candidates come from the actor."""
    seeded = [*CLOSED[:2], ("planner.proposals", str(max(1, candidates // 20)))]
    found = {
        "random": [("behavior.name", "random")],
        "shooting": [*PLAN, ("planner.name", "shooting")],
        "cem": [*PLAN, ("planner.name", "cem")],
        "mppi": [*PLAN, ("planner.name", "mppi")],
    }
    if learned:
        found |= {
            "actor": ACTOR,
            "cem, critic": [*CLOSED, ("planner.name", "cem")],
            "cem, actor and critic": [*seeded, ("planner.name", "cem")],
            "mppi, actor and critic": [*seeded, ("planner.name", "mppi")],
        }
    return found


class Timed:
    """A player that notes how long each of its answers took."""

    def __init__(self, player: Player):
        self.player, self.seconds = player, list[float]()

    def __call__(self, rows: list[Row]) -> np.ndarray:
        began = time.perf_counter()
        actions = self.player(rows)
        self.seconds.append(time.perf_counter() - began)
        return actions

    @property
    def milliseconds(self) -> float:
        """The median, which a first call's warming up does not move."""
        return 1000 * float(np.median(self.seconds))


def table(results: dict[str, dict[str, Any]]) -> str:
    """Plain text, the best return first."""
    lines = [f"{'driven by':<24}{'return':>9}{'95 % interval':>20}{'ms/action':>11}"]
    for name, r in sorted(results.items(), key=lambda item: -item[1]["eval/score"]):
        interval = f"{r['eval/score_low']:.1f} to {r['eval/score_high']:.1f}"
        lines.append(f"{name:<24}{r['eval/score']:>9.1f}{interval:>20}{r['ms_per_action']:>11.1f}")
    return "\n".join(lines)
