"""The steps of recorded episodes from which plans and policies are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.spaces import State, select_states


@dataclass(frozen=True)
class TrialCounts:
    """Number of starts, random plans per start, steps of a plan, and steps of a policy."""

    starts: int
    plans: int
    length: int
    policy_steps: int


@dataclass(frozen=True)
class TrialStart:
    """A step of an episode and its posterior (1,...)."""

    episode: RecordedEpisode
    step: int
    state: State


def choose_trial_starts(
    episodes: Sequence[RecordedEpisode],
    posteriors: Sequence[State],
    counts: TrialCounts,
    context: int,
    seed: int,
) -> list[TrialStart]:
    """Random steps of the episodes, with room for plans and policies if episodes are long."""
    rng, found = np.random.default_rng(seed), []
    long = [i for i, e in enumerate(episodes) if len(e) > context]
    for n in range(counts.starts):
        episode, posterior = episodes[long[n % len(long)]], posteriors[long[n % len(long)]]
        last = max(context - 1, len(episode) - 1 - max(counts.length, counts.policy_steps))
        step = int(rng.integers(context - 1, last + 1))
        found.append(TrialStart(episode, step, select_states(posterior, np.array([step]))))
    return found
