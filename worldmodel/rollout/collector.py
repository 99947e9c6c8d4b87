"""The loop between environments and a policy, shared by training and evaluation."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np

from worldmodel.errors import Diverged, UsageError
from worldmodel.spaces import ActionSpace, ObservationSpace, Row

log = logging.getLogger(__name__)

Policy = Callable[[list[Row]], np.ndarray]
MAX_CHOICES = 1_000_000
SUCCESS = ("success", "is_success")  # what Gymnasium's tasks call it in a step's info
ACHIEVEMENT = "achievement/"  # before the name of each, as the adapter of Crafter has it


def convert_spaces(envs) -> tuple[ObservationSpace, ActionSpace]:
    """Convert Gymnasium's spaces to the model's."""
    observation, action = envs.observation_space, envs.action_space
    if isinstance(observation, gymnasium.spaces.Dict):
        parts: dict[str, Any] = dict(observation.spaces)
    else:
        parts = {"image" if len(observation.shape) == 3 else "vector": observation}
    seen = ObservationSpace({name: part.shape for name, part in parts.items()})
    if isinstance(action, gymnasium.spaces.Box):
        return seen, ActionSpace(int(np.prod(action.shape)))
    scalar = isinstance(action, gymnasium.spaces.Discrete)
    groups = tuple(int(n) for n in ([action.n] if scalar else action.nvec))
    if sum(groups) > MAX_CHOICES:
        raise UsageError(
            f"this environment offers {sum(groups):,} choices of action, and each is a number of "
            f"a one-hot vector, of which there may be {MAX_CHOICES:,}; give it fewer, or a Box or "
            "MultiDiscrete space"
        )
    return seen, ActionSpace(sum(groups), groups, scalar)


def make_episode_seeds(*entropy: int) -> Callable[[int, int], int]:
    """Make a function (environment, episode number) -> seed; different entropy gives unrelated
    seeds.
    """

    def seed(env: int, episode: int) -> int:
        return int(np.random.SeedSequence([*entropy, env, episode]).generate_state(1)[0] >> 1)

    return seed


def take_starts_in_turn(
    seeds: Callable[[int, int], int], starts: int
) -> Callable[[int, int], int]:
    """Change seeds so that episodes begin in the ways of `env.starts`, by turns."""

    def seed(env: int, episode: int) -> int:
        found = seeds(env, episode)
        return found - found % starts + (env + episode) % starts

    return seed


class Episode:
    """An open episode: all that is needed to simulate it again, and its score."""

    def __init__(self, number: int, seed: int):
        self.number, self.seed = number, seed
        self.actions: list[np.ndarray] = []
        self.score = 0.0
        self.success: bool | None = None  # whether any step was one, if the task says so
        self.achievements: dict[str, bool] = {}  # whether each was reached, if the task has any


class VectorEnv(Protocol):
    """Several environments by number.

    A step has obs, reward, is_first, is_last, is_terminal, frames, fault and info. Only `info` is
    the environment's own, and nothing but SUCCESS and
    ACHIEVEMENT is read from it.
    """

    num_envs: int
    observation_space: gymnasium.spaces.Space
    action_space: gymnasium.spaces.Space

    def reset(self, i: int, seed: int) -> Any:
        """Start a new episode of one environment; return its first step."""

    def step(self, i: int, action: Any) -> Any:
        """Step one environment; return the step."""

    def begin_reset(self, i: int, seed: int) -> None:
        """Start a new episode without waiting for its first step."""

    def begin_step(self, i: int, action: Any) -> None:
        """Step without waiting for the outcome."""

    def finish(self) -> Mapping[int, Any]:
        """Wait for all that has begun and return the steps by environment."""


class Rollout:
    """Steps environments by a policy; each step returns one row of experience per environment.

    `seeds(env, episode)` is the seed of an episode.
    """

    def __init__(self, envs: VectorEnv, space: ActionSpace, seeds: Callable[[int, int], int]):
        self.envs, self.space, self.seeds = envs, space, seeds
        self.episodes = [Episode(0, seeds(i, 0)) for i in range(envs.num_envs)]
        self.actions: np.ndarray = np.zeros((envs.num_envs, space.size), np.float32)
        self.fresh = [True] * envs.num_envs
        self.seen: list[dict[str, np.ndarray]] = [{}] * envs.num_envs
        self.steps = 0
        self.frames = 0
        self.faults = 0
        self.finished: list[Episode] = []
        self.begun = False  # whether the environments work on the next step already

    def start_at_episode(self, number: int) -> None:
        """Number episodes from here on, for environments that join a run late."""
        self.episodes = [Episode(number, self.seeds(i, number)) for i in range(self.envs.num_envs)]

    def begin(self) -> None:
        """Start the next step without waiting; only `step` may use the environments then."""
        for i in range(self.envs.num_envs):
            if self.fresh[i]:
                self.envs.begin_reset(i, self.episodes[i].seed)
            else:
                self.envs.begin_step(i, self.to_env(self.actions[i]))
        self.begun = True

    def step(self, policy: Policy) -> list[Row]:
        """Send the last actions, return the rows that come back, and choose the next actions."""
        if not self.begun:
            self.begin()
        results, self.begun = self.envs.finish(), False
        rows = [self._make_row(i, results[i]) for i in range(self.envs.num_envs)]
        actions = np.asarray(policy(rows), np.float32)
        if not np.isfinite(actions).all():
            raise Diverged(
                f"the policy chose an action that is not finite, at agent step {self.steps}; "
                "the environment never saw it. The last checkpoint is kept: the same command "
                "goes on from there. If this comes back, give a lower optim.lr, or "
                "--run.precision fp32, together with a new --run.name"
            )
        self.actions = actions
        return rows

    def to_env(self, action: np.ndarray) -> Any:
        """Convert the model's action vector (A,) to an action of the environment."""
        if not self.space.discrete:
            return action
        picks = [
            int(part.argmax()) for part in np.split(action, np.cumsum(self.space.groups)[:-1])
        ]
        return picks[0] if self.space.scalar else np.array(picks)

    def _make_row(self, i: int, result) -> Row:
        """Turn the step of environment i into a row, and count it."""
        episode = self.episodes[i]
        action = (
            np.zeros(self.space.size, np.float32) if result.is_first else self.actions[i].copy()
        )
        if not result.is_first:
            episode.actions.append(action)
            episode.score += float(result.reward)
            self.frames += result.frames
            self.steps += 1
            for flag in (result.info[key] for key in SUCCESS if key in result.info):
                episode.success = bool(episode.success) or bool(flag)
            for key in (key for key in result.info if key.startswith(ACHIEVEMENT)):
                reached = episode.achievements.get(key, False) or bool(result.info[key])
                episode.achievements[key] = reached
        self.faults += bool(result.fault)
        self.fresh[i] = result.is_last
        self.seen[i] = result.obs
        if result.is_last:
            self.finished.append(episode)
            self.episodes[i] = Episode(episode.number + 1, self.seeds(i, episode.number + 1))
        flags = {
            "is_first": result.is_first,
            "is_last": result.is_last,
            "is_terminal": result.is_terminal,
        }
        return {**result.obs, "prev_action": action, "reward": np.float32(result.reward), **flags}

    def pop_finished(self) -> list[Episode]:
        """Return the episodes that have ended since the last call."""
        done, self.finished = self.finished, []
        return done

    def state_dict(self) -> dict[str, Any]:
        """Return plain values: the counters, and seed and actions of each open episode."""
        episodes = [
            {
                "number": e.number,
                "seed": e.seed,
                "actions": [a.tolist() for a in e.actions],
                "fresh": fresh,
                "seen": compute_checksum(seen),
            }
            for e, fresh, seen in zip(self.episodes, self.fresh, self.seen, strict=True)
        ]
        counters = {"steps": self.steps, "frames": self.frames, "faults": self.faults}
        return {**counters, "episodes": episodes, "next_actions": self.actions.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Simulate the open episodes again from their seeds and actions."""
        if len(state["episodes"]) != self.envs.num_envs:
            raise ValueError(
                f"env.num: the run was collecting with {len(state['episodes'])} environments; "
                "keep that"
            )
        actions = np.array(state["next_actions"], np.float32).reshape(self.actions.shape)
        if not np.isfinite(actions).all():
            raise ValueError("the next actions are not finite")
        for i, saved in enumerate(state["episodes"]):
            number, seed = check_natural(saved["number"]), check_natural(saved["seed"], 2**32)
            self.episodes[i] = Episode(number, seed)
            self.fresh[i] = bool(saved["fresh"])
            if not self.fresh[i]:
                self._simulate_again(i, saved)
        self.actions = actions
        self.steps, self.frames, self.faults = (
            check_natural(state[key]) for key in ("steps", "frames", "faults")
        )
        self.finished = []

    def _simulate_again(self, i: int, saved: dict[str, Any]) -> None:
        """Bring environment i back to where it was; if it comes out elsewhere, start a new
        episode.
        """
        self._make_row(i, self.envs.reset(i, saved["seed"]))
        for action in saved["actions"]:
            if self.fresh[i]:
                break
            self.actions[i] = np.array(action, np.float32)
            if not np.isfinite(self.actions[i]).all():
                raise ValueError("an action of an open episode is not finite")
            self._make_row(i, self.envs.step(i, self.to_env(self.actions[i])))
        if self.fresh[i] or compute_checksum(self.seen[i]) != saved["seen"]:
            log.warning(
                "environment %d, simulated again from seed and actions, came out elsewhere: it "
                "is not deterministic, or something about it has changed; its open episode is "
                "given up and a new one starts",
                i,
            )
            number = saved["number"] + 1
            self.episodes[i], self.fresh[i] = Episode(number, self.seeds(i, number)), True


def check_natural(value: Any, below: int = 2**53) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise ValueError(f"{value!r} is not a whole number below {below}")
    return value


def compute_checksum(obs: dict[str, np.ndarray]) -> int:
    """The CRC-32 of an observation."""
    return zlib.crc32(b"".join(np.ascontiguousarray(obs[k]).tobytes() for k in sorted(obs)))
