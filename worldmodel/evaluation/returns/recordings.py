"""A saved run at play: the rollout and player of an evaluation, and short recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from worldmodel.errors import RunError, exit_code_of
from worldmodel.rollout.collector import Rollout, episode_seeds
from worldmodel.rollout.player import Player
from worldmodel.spaces import Row
from worldmodel.system.runtime import make_generator

ENTROPY = 9  # keeps these episodes apart from those of training


def playing(run, envs, seed: int) -> tuple[Rollout, Player]:
    """Greedy play on episodes named by a seed; `run` has an agent and an action_space.

    The n-th episode over all environments is the same one however many play side by side.
    """
    count, seeds = envs.num_envs, episode_seeds(seed, ENTROPY)
    player = Player(
        run.agent, count, "eval", make_generator(seed, ENTROPY, device=run.agent.device.type)
    )
    return Rollout(
        envs, run.action_space, lambda env, episode: seeds(0, episode * count + env)
    ), player


def record(
    rollout: Rollout,
    player: Player,
    length: int,
    on_row: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """The first rows of the first environment's episode, at most `length`."""
    rows: list[Row] = []
    while len(rows) < length and not (rows and rows[-1]["is_last"]):
        rows.append(rollout.step(player)[0])
        on_row(len(rows))
    return rows


def first_made(make: Callable[[str], Any], kinds: Sequence[str]) -> tuple[Any | None, str]:
    """Environments by what is observed, the first of these kinds that can be made; else None and
    why, in one line.
    """
    why = ""
    for kind in kinds:
        try:
            return make(kind), ""
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            why = in_a_line(error)
    return None, why


def needed(make: Callable[..., Any]) -> Callable[..., Any]:
    """Environments that there is no doing without: RunError in one line where they can't
    be made.
    """

    def made(*args: Any, **options: Any) -> Any:
        try:
            return make(*args, **options)
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            raise RunError(
                f"the environment can't be made here ({in_a_line(error)}); imagine, model, play "
                f"and report "
                "do without it, and so does returns --from saved",
                3,
            ) from None

    return made


def in_a_line(error: Exception) -> str:
    """What an error says, without the trace that an environment's process has sent along."""
    said, _, trace = str(error).partition("Traceback (most recent call last):")
    return (" ".join(said.split()) or "".join(trace.strip().splitlines()[-1:]))[:200]
