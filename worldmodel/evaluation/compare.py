"""One saved model driven in several ways: what each earns, and how long it thinks about an action."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from worldmodel.player import Player
from worldmodel.rollout import Row

Changes = list[tuple[str, str]]

# What the preset icem adds to a CEM of any size.
ICEM = [("planner.momentum", "0.1"), ("planner.keep", "0.3"), ("planner.decay", "1.25"), ("planner.color", "2.0")]


def drivers(candidates: int, learned: bool) -> dict[str, Changes]:
    """Ways to drive a run, as changes to its configuration; the last four need an actor and a critic.

    A twentieth of a seeded planner's candidates come from the actor.
    """
    seeds = max(1, candidates // 20)
    found = {
        "random": [("behavior.name", "random")],
        "shooting": planning("shooting"),
        "cem": planning("cem"),
        "icem": [*planning("cem"), *ICEM],
        "mppi": planning("mppi"),
    }
    if learned:
        found |= {
            "actor": [("behavior.name", "actor_critic")],
            "cem, critic": planning("cem", "reward+value"),
            "cem, actor and critic": planning("cem", "reward+value", seeds),
            "mppi, actor and critic": planning("mppi", "reward+value", seeds),
        }
    return found


def planning(name: str, score: str = "reward", proposals: int = 0) -> Changes:
    planner = {"name": name, "score": score, "proposals": proposals}
    return [("behavior.name", "mpc"), *((f"planner.{key}", str(value)) for key, value in planner.items())]


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
