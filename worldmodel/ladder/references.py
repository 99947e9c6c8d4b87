"""Returns that scores are compared with: of the task's expert, and of a pendulum that spins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from worldmodel.config.schema import Config
from worldmodel.programs.environments import Environments
from worldmodel.rollout.collector import make_episode_seeds

STREAM = 12  # the seeds of these episodes differ from those of trainings and evaluations
EXPERT, SPINNING = "expert", "spinning"
EPISODES = 50
SPINS = 1.1  # times the return of spinning, up to which an agent does no more than spin


def measure_references(environments: Environments, config: Config) -> dict[str, float]:
    """The mean return of each reference policy that the task of a training has."""
    env = dataclasses.replace(config.env, obs="state")
    make = environments.make_factory(env, config.distract, True)
    found = {}
    try:
        found[EXPERT] = play_episodes(make, environments.load_expert(env.task))
    except ValueError:  # the task has none
        return found
    if env.task == "pendulum":
        found[SPINNING] = play_episodes(make, spin)
    return found


def spin(env: Any) -> np.ndarray:
    """Push the pendulum along its motion with all force."""
    _, speed = env.unwrapped.state()
    return np.array([1.0 if speed >= 0 else -1.0], np.float32)


def only_spin(levels: Mapping[str, float], scores: Sequence[float]) -> bool:
    """Whether all of some mean returns are about that of spinning, so that none is a success."""
    if SPINNING not in levels:
        return False
    least, most = levels[SPINNING] / SPINS, levels[SPINNING] * SPINS
    return all(least <= score <= most for score in scores)


def play_episodes(make: Callable[[], Any], policy: Callable[[Any], Any]) -> float:
    """The mean return of some episodes of a policy that sees the environment itself."""
    env, seeds, returns = make(), make_episode_seeds(0, STREAM), []
    for episode in range(EPISODES):
        env.reset(seed=seeds(episode, 0))
        total, over = 0.0, False
        while not over:
            _, reward, ended, cut, _ = env.step(policy(env))
            total, over = total + float(reward), ended or cut
        returns.append(total)
    env.close()
    return float(np.mean(returns))
