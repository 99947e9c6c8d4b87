"""A saved run at play: the rollout and player of an evaluation, and short recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from worldmodel.player import Player
from worldmodel.rollout import Rollout, Row, episode_seeds
from worldmodel.runtime import seeded

ENTROPY = 9  # keeps these episodes apart from those of training


def playing(run, envs, reset, seed: int) -> tuple[Rollout, Player]:
    """Greedy play on episodes named by a seed; `run` has an agent and an action_space."""
    player = Player(run.agent, envs.num_envs, "eval", seeded(seed, ENTROPY, device=run.agent.device.type))
    return Rollout(envs, reset, run.action_space, episode_seeds(seed, ENTROPY)), player


def record(rollout: Rollout, player: Player, length: int) -> list[Row]:
    """The first rows of the first environment's episode, at most `length`."""
    rows: list[Row] = []
    while len(rows) < length and not (rows and rows[-1]["is_last"]):
        rows.append(rollout.step(player)[0])
    return rows


def first_made(make: Callable[[str], Any], kinds: Sequence[str]) -> tuple[Any | None, str]:
    """Environments by what is observed, the first of these kinds that can be made; else None and why, in one line."""
    why = ""
    for kind in kinds:
        try:
            return make(kind), ""
        except (ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())[:200]
    return None, why
