"""What lessons measure on: trained runs by their label, environments, and recorded episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.ladder.references import measure_references
from worldmodel.ladder.trainings import Study
from worldmodel.model.dynamics import Simulator
from worldmodel.model.ensembles import measure_disagreement
from worldmodel.programs.environments import Environments
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.collector import make_episode_seeds
from worldmodel.saved_run import Run
from worldmodel.spaces import ActionSpace, State, map_state

STREAM = 11  # the seeds of recorded episodes differ from those of trainings and evaluations
ACTIONS = 30  # that are timed, after as many that are not
SAMPLES = 32  # next states that are sampled of each member
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
    action_ms: dict[str, float] = field(default_factory=dict)  # by label, as measured

    def open(self, label: str) -> Run:
        """The run of the first seed."""
        path = self.runs[label][0]
        if path not in self.opened:
            self.opened[path] = Run.open(path, "cpu")
        return self.opened[path]

    def measure_references(self, label: str) -> dict[str, float]:
        """What the returns of a training are compared with."""
        return measure_references(self.environments, self.open(label).config)

    def measure_action_time(self, label: str) -> float:
        """Processor milliseconds of one action, measured once, so that lessons agree on it."""
        if label not in self.action_ms:
            run = self.open(label)
            make = self.environments.make_factory(run.config.env, run.config.distract, True)
            self.action_ms[label] = measure_action_time(run, make)
        return self.action_ms[label]

    def make_simulator(self, run: Run) -> Simulator:
        return self.environments.make_simulator(run.config.env, trust=True)

    def record(self, run: Run, episodes: int, steps: int) -> Recording:
        """Episodes as the run's agent plays them, with the simulator's state at each step."""
        return record_episodes(run.act, self._make_factory(run), run.action_space, episodes, steps)

    def record_random(self, run: Run, episodes: int, steps: int) -> Recording:
        """Episodes of random actions, as a training begins with, in the run's environment."""
        generator = torch.Generator().manual_seed(STREAM)

        def act(rows: Sequence[Mapping[str, Any]], carry: Any) -> tuple[np.ndarray, None]:
            return run.action_space.random(len(rows), generator).numpy(), None

        return record_episodes(act, self._make_factory(run), run.action_space, episodes, steps)

    def _make_factory(self, run: Run) -> Callable[[], Any]:
        return self.environments.make_factory(run.config.env, run.config.distract, True, True)


def measure_action_time(run: Run, make: Callable[[], Any]) -> float:
    """Processor milliseconds of one action; the time of a whole plan is spread over its steps."""
    env = make()
    observation, _ = env.reset(seed=0)
    env.close()
    carry, began = None, 0.0
    for step in range(2 * ACTIONS):
        if step == ACTIONS:
            began = time.process_time()
        _, carry = run.act([observation], carry)
    return (time.process_time() - began) / ACTIONS * 1000


def record_episodes(
    act: Callable[..., tuple[np.ndarray, Any]],
    make: Callable[[], Any],
    space: ActionSpace,
    episodes: int,
    steps: int,
) -> Recording:
    """Play so many episodes side by side, as in an evaluation."""
    envs, seeds = [make() for _ in range(episodes)], make_episode_seeds(0, STREAM)
    seen = [env.reset(seed=seeds(i, 0))[0] for i, env in enumerate(envs)]
    rows: dict[str, list[Any]] = {k: [] for k in ("vector", ENTRY, "action", "reward", "alive")}
    alive, carry = np.ones(episodes, bool), None
    for step in range(steps + 1):
        for key in ("vector", ENTRY):
            rows[key].append(np.stack([one[key] for one in seen]))
        if step == steps or not alive.any():
            break
        action, carry = act([{"vector": one["vector"]} for one in seen], carry)
        rows["action"].append(action)
        rows["alive"].append(alive.copy())
        rewards = np.zeros(episodes)
        for i in np.flatnonzero(alive):
            chosen = decode_actions(space, action)[i]
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


@torch.no_grad()
def measure_uncertainties(run: Run, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean entropy of the members' predictions, and the std between their means: (N,) each.

    The entropy is that of a Gaussian with the variance of sampled next states, up to a constant.
    """
    dynamics, count = run.model.dynamics, len(points)
    state, members = observe_vectors(run, points), run.model.dynamics.members
    action = torch.zeros(count, run.action_space.size)
    start = map_state(state, lambda v: v.repeat(members * SAMPLES, *[1] * (v.dim() - 1)))
    start["member"] = torch.arange(members).repeat_interleave(SAMPLES * count)
    after = dynamics.imagine_step(start, action.repeat(members * SAMPLES, 1), run.generator)
    vectors = dynamics.restore(dynamics.features(after)).view(members, SAMPLES, count, -1)
    entropy = vectors.var(1).clamp(min=1e-12).log().mul(0.5).sum(-1).mean(0)
    means = dynamics.restore(run.model.predict_members(dynamics.features(state), action))
    return entropy.numpy(), measure_disagreement(means).numpy()


def read_vectors(path: Path, after: int = 0) -> np.ndarray:
    """The observed vectors (N,n) of a run's training, of episodes begun after so many steps."""
    episodes = SavedEpisodes(path)
    found, steps = [], 0
    for i in range(episodes.count):
        vectors = episodes.read_episode(i)["vector"]
        if steps >= after:
            found.append(vectors)
        steps += len(vectors) - 1
    return np.concatenate(found)
