"""What lessons measure on: trained runs by their label, environments, and recorded episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.ladder.trainings import Study
from worldmodel.model.dynamics import Simulator
from worldmodel.programs.environments import Environments
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.collector import make_episode_seeds
from worldmodel.saved_run import Run
from worldmodel.spaces import ActionSpace, State

STREAM = 11  # the seeds of recorded episodes differ from those of trainings and evaluations
ENTRY = "simulator"  # of an observation: the simulator's whole state


@dataclass(frozen=True)
class Recording:
    """E episodes of at most T steps. After an episode's end its last row is repeated."""

    vector: np.ndarray  # (E,T+1,n)
    simulator: np.ndarray  # (E,T+1,m)
    action: np.ndarray  # (E,T,A)
    reward: np.ndarray  # (E,T)
    alive: np.ndarray  # (E,T), whether the step happened

    def choose_starts(self, count: int, steps: int, seed: int = 0) -> np.ndarray:
        """At most `count` random steps that so many steps follow: pairs (episode, step) (N,2)."""
        ends = self.alive.sum(1)
        rows = [(e, t) for e, end in enumerate(ends) for t in range(end - steps + 1)]
        order = np.random.default_rng(seed).permutation(len(rows))[:count]
        return np.array(rows, int).reshape(-1, 2)[np.sort(order)]


@dataclass(frozen=True)
class Material:
    """The finished trainings, and how to make environments and simulators for them."""

    study: Study
    runs: Mapping[str, Sequence[Path]]
    environments: Environments
    opened: dict[Path, Run] = field(default_factory=dict)

    def open(self, label: str) -> Run:
        """The run of the first seed."""
        path = self.runs[label][0]
        if path not in self.opened:
            self.opened[path] = Run.open(path, "cpu")
        return self.opened[path]

    def make_simulator(self, run: Run) -> Simulator:
        return self.environments.make_simulator(run.config.env, trust=True)

    def record(self, run: Run, episodes: int, steps: int, seed: int = 0) -> Recording:
        """Episodes as the run's agent plays them, with the simulator's state at each step."""
        config = run.config
        factory = self.environments.make_factory(config.env, config.distract, True, True)
        return record_episodes(run, factory, episodes, steps, seed)


def record_episodes(
    run: Run, make: Callable[[], Any], episodes: int, steps: int, seed: int = 0
) -> Recording:
    """Play so many episodes side by side, as in an evaluation."""
    envs, seeds = [make() for _ in range(episodes)], make_episode_seeds(seed, STREAM)
    seen = [env.reset(seed=seeds(i, 0))[0] for i, env in enumerate(envs)]
    rows: dict[str, list[Any]] = {k: [] for k in ("vector", ENTRY, "action", "reward", "alive")}
    alive, carry = np.ones(episodes, bool), None
    for step in range(steps + 1):
        for key in ("vector", ENTRY):
            rows[key].append(np.stack([one[key] for one in seen]))
        if step == steps or not alive.any():
            break
        action, carry = run.act([{"vector": one["vector"]} for one in seen], carry)
        rows["action"].append(action)
        rows["alive"].append(alive.copy())
        rewards = np.zeros(episodes)
        for i in np.flatnonzero(alive):
            chosen = decode_actions(run.action_space, action)[i]
            seen[i], rewards[i], ended, cut, _ = envs[i].step(chosen)
            alive[i] = not (ended or cut)
        rows["reward"].append(rewards)
    for env in envs:
        env.close()
    return Recording(*(np.stack(column, 1) for column in rows.values()))


def decode_actions(space: ActionSpace, actions: np.ndarray) -> np.ndarray:
    """The environment's own actions (N,...) of the model's (N,A)."""
    return space.decode_actions(actions) if space.discrete else actions


def simulate_plans(
    simulator: Simulator, space: ActionSpace, states: np.ndarray, plans: np.ndarray
) -> np.ndarray:
    """The true rewards (N,H) of plans (N,H,A) from a simulator's states (N,m)."""
    rewards, alive = np.zeros(plans.shape[:2]), np.ones(len(plans), bool)
    for step, actions in enumerate(plans.swapaxes(0, 1)):
        states, earned, ended = simulator.step(states, decode_actions(space, actions), seed=step)
        rewards[:, step] = earned * alive
        alive &= ~ended
    return rewards


@torch.no_grad()
def observe_vectors(run: Run, vectors: np.ndarray) -> State:
    """The states (N,...) of the model at vectors (N,n), each taken as an episode's first."""
    nothing = np.zeros((1, run.action_space.size), np.float32)
    rows = [{"vector": vector[None], "prev_action": nothing} for vector in vectors]
    return run.agent.observe_starts(rows, run.generator)


def read_vectors(path: Path) -> np.ndarray:
    """The observed vectors (N,n) of a run's training."""
    episodes = SavedEpisodes(path)
    return np.concatenate([episodes.read_episode(i)["vector"] for i in range(episodes.count)])
