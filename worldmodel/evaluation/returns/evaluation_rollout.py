"""Rollouts of a saved run: environments that can be made, the greedy player, one episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from worldmodel.errors import RunError, exit_code_of
from worldmodel.rollout.collector import Policy, Rollout, make_episode_seeds
from worldmodel.rollout.player import Player
from worldmodel.spaces import Row
from worldmodel.system.runtime import make_generator

SEED_STREAM = 9  # these episodes have other seeds than those of training


def make_evaluation_rollout(run, envs, seed: int) -> tuple[Rollout, Player]:
    """A rollout and a greedy player on episodes given by a seed.

    The n-th episode over all environments is the same for any number of environments. `run` is
    anything with an agent and an action_space.
    """
    count, seeds = envs.num_envs, make_episode_seeds(seed, SEED_STREAM)
    player = Player(
        run.agent, count, "eval", make_generator(seed, SEED_STREAM, device=run.agent.device.type)
    )
    return Rollout(
        envs, run.action_space, lambda env, episode: seeds(0, episode * count + env)
    ), player


def record_episode(
    rollout: Rollout,
    player: Policy,
    length: int,
    on_row: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """The rows of the first environment's episode, at most `length`."""
    rows: list[Row] = []
    while len(rows) < length and not (rows and rows[-1]["is_last"]):
        rows.append(rollout.step(player)[0])
        on_row(len(rows))
    return rows


def make_first_available(
    make: Callable[[str], Any], kinds: Sequence[str]
) -> tuple[Any | None, str]:
    """The environments of the first kind that can be made; otherwise None and a reason."""
    why = ""
    for kind in kinds:
        try:
            return make(kind), ""
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            why = summarize_error(error)
    return None, why


def require_environment(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, with RunError in one line if the environment cannot be made."""

    def make_or_fail(*args: Any, **options: Any) -> Any:
        try:
            return make(*args, **options)
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            raise RunError(
                f"the environment can't be made here ({summarize_error(error)}); imagine, model, "
                "play, report and returns --from saved work without it",
                3,
            ) from None

    return make_or_fail


def summarize_error(error: Exception) -> str:
    """An error's message in one line, without the traceback of an environment's process."""
    message, _, trace = str(error).partition("Traceback (most recent call last):")
    return (" ".join(message.split()) or "".join(trace.strip().splitlines()[-1:]))[:200]
