"""Simulators that step from any state: what planning in the truth needs.

`ObserveSimulator` adds the full state of an environment to what it observes. `Simulator` steps a
private copy of the environment from such states. How a state is read and set depends on the kind
of environment; a class of a user's own may offer `get_simulator_state() -> (n,)` and
`set_simulator_state(state)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .errors import FixedSimulatorError
from .tasks.base import Task

ENTRY = "simulator"  # of the observation

# What an episode of the DeepMind Control suite may change in the model itself, such as a target
_MODEL_FIELDS = (
    "body_pos",
    "body_quat",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "site_pos",
    "site_quat",
    "dof_damping",
    "wrap_prm",
)


class Access:
    """The state of an environment, and control steps from it without a time limit."""

    angles: tuple[int, ...] = ()  # entries of the state that are kept in [-pi, pi]

    def read(self) -> np.ndarray:
        """Return the state as a flat float64 vector (n,)."""
        raise NotImplementedError

    def write(self, state: np.ndarray) -> None:
        """Go on from a state (n,)."""
        raise NotImplementedError

    def advance(self, action: Any) -> tuple[float, bool]:
        """Simulate a control step; return its reward and whether it terminated the episode."""
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """Seed what is random in a step."""
        raise NotImplementedError

    def advance_rows(
        self, states: np.ndarray, actions: Sequence[Any], repeat: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Simulate `repeat` control steps from each state (N,n), or up to the end of an episode.

        Returns the next states, the sums of rewards (N,) and whether each row ended (N,).
        """
        after, rewards = np.empty_like(states), np.zeros(len(states))
        ends = np.zeros(len(states), bool)
        for i, action in enumerate(actions):
            self.write(states[i])
            for _ in range(repeat):
                reward, ends[i] = self.advance(action)
                rewards[i] += reward
                if ends[i]:
                    break
            after[i] = self.read()
        return after, rewards, ends


class TaskAccess(Access):
    """A built-in task, all rows at once if the task knows how."""

    def __init__(self, task: Task):
        self.task, self.angles = task, task.angles

    def read(self) -> np.ndarray:
        return self.task.state()

    def write(self, state: np.ndarray) -> None:
        self.task.set_state(state)

    def advance(self, action: Any) -> tuple[float, bool]:
        return self.task.advance(action)

    def advance_rows(
        self, states: np.ndarray, actions: Sequence[Any], repeat: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.task.steps_rows:
            return super().advance_rows(states, actions, repeat)
        after, rewards, plans = states.copy(), np.zeros(len(states)), np.asarray(actions)
        ends = np.zeros(len(states), bool)
        for _ in range(repeat):
            on = ~ends
            after[on], earned, ends[on] = self.task.advance_rows(after[on], plans[on])
            rewards[on] += earned
        return after, rewards, ends

    def seed(self, seed: int) -> None:
        self.task.np_random = np.random.default_rng(seed)


class SuiteAccess(Access):
    """A task of the DeepMind Control suite: MuJoCo's state, and what episodes change in models."""

    def __init__(self, env: Any):
        self.env = env
        if not env.can_restore:
            raise FixedSimulatorError(
                f"dmc:{env.domain}_{env.task} draws a new model or terrain for each "
                "episode, which no state holds; take another task to plan in its simulator"
            )
        self.changes = find_changes(env.domain, env.task)

    def read(self) -> np.ndarray:
        model = self.env.physics.model
        parts = [getattr(model, name).ravel()[where] for name, where in self.changes.items()]
        return np.concatenate([self.env.physics.get_state(), *parts])

    def write(self, state: np.ndarray) -> None:
        import mujoco

        physics, end = self.env.physics, len(state)
        model, data = physics.model.ptr, physics.data.ptr
        for name, where in reversed(self.changes.items()):
            field = getattr(physics.model, name)
            field.flat[where] = state[end - len(where) : end]
            end -= len(where)
        mujoco.mj_resetData(model, data)  # clears what solvers remember of the step before
        physics.set_state(state[:end])
        mujoco.mj_forward(model, data)

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        return self.env.simulate(action)

    def seed(self, seed: int) -> None:
        """Nothing is random in a step."""


@lru_cache
def find_changes(domain: str, task: str) -> dict[str, np.ndarray]:
    """Find the numbers of the model that differ between episodes: indices by field."""
    from .dmc.suite import DMC

    env = DMC(f"{domain}_{task}", obs="state")
    found = []
    for seed in range(4):
        env.reset(seed=seed)
        found.append({k: getattr(env.physics.model, k).ravel().copy() for k in _MODEL_FIELDS})
    env.close()
    changes = {
        k: np.flatnonzero((np.stack([model[k] for model in found]) != found[0][k]).any(0))
        for k in _MODEL_FIELDS
    }
    return {k: where for k, where in changes.items() if len(where)}


class GymnasiumAccess(Access):
    """An environment of Gymnasium's own or a user's, whose actions are brought to [-1, 1]."""

    def __init__(self, env: gymnasium.Env, name: str):
        from .gymnasium_adapter import adapt_action

        self.inner: Any = env.unwrapped
        if not hasattr(self.inner, "get_simulator_state"):
            env = self.inner  # without the time limit of its registration
        self.env = adapt_action(env, name)

    def read(self) -> np.ndarray:
        return np.asarray(self.inner.get_simulator_state(), np.float64)

    def write(self, state: np.ndarray) -> None:
        self.inner.set_simulator_state(state)

    def advance(self, action: Any) -> tuple[float, bool]:
        _, reward, terminated, _, _ = self.env.step(action)
        return float(reward), bool(terminated)

    def seed(self, seed: int) -> None:
        self.inner.np_random = np.random.default_rng(seed)


class MujocoAccess(GymnasiumAccess):
    """An environment of Gymnasium's on MuJoCo."""

    def read(self) -> np.ndarray:
        data = self.inner.data
        return np.concatenate([data.qpos.ravel(), data.qvel.ravel()])

    def write(self, state: np.ndarray) -> None:
        import mujoco

        model, data = self.inner.model, self.inner.data
        mujoco.mj_resetData(model, data)  # which clears what a solver remembers
        self.inner.set_state(state[: model.nq], state[model.nq :])


class ClassicControlAccess(GymnasiumAccess):
    """An environment of Gymnasium's classic control."""

    def read(self) -> np.ndarray:
        return np.asarray(self.inner.state, np.float64)

    def write(self, state: np.ndarray) -> None:
        self.inner.state = np.array(state)
        self.inner.steps_beyond_terminated = None  # of CartPole, which else warns


def find_access(env: gymnasium.Env, name: str) -> Access:
    """Return the access to an environment's state; FixedSimulatorError if there is none."""
    inner: Any = env.unwrapped
    if isinstance(inner, Task):
        return TaskAccess(inner)
    if name.startswith("dmc:"):
        return SuiteAccess(inner)
    if hasattr(inner, "get_simulator_state") and hasattr(inner, "set_simulator_state"):
        return GymnasiumAccess(env, name)
    module = type(inner).__module__
    if module.startswith("gymnasium.envs.mujoco."):
        return MujocoAccess(env, name)
    if module.startswith("gymnasium.envs.classic_control."):
        return ClassicControlAccess(env, name)
    raise FixedSimulatorError(
        f"{name}: nobody can set the state of this simulator, so nothing can be planned in it: "
        "give its class get_simulator_state() -> array (n,) and set_simulator_state(array)"
    )


class ObserveSimulator(gymnasium.Wrapper):
    """Add the full state of the environment to what is observed, as the entry `simulator`."""

    def __init__(self, env: gymnasium.Env, name: str):
        super().__init__(env)
        self.access = find_access(env, name)
        env.reset(seed=0)
        state = spaces.Box(-np.inf, np.inf, self.access.read().shape, np.float32)
        inner = env.observation_space
        if isinstance(inner, spaces.Dict):
            self.only, parts = "", dict(inner.spaces)
        else:
            self.only = "image" if len(inner.shape or ()) == 3 else "vector"
            parts = {self.only: inner}
        self.observation_space = spaces.Dict({**parts, ENTRY: state})

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._add_state(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._add_state(obs), reward, terminated, truncated, info

    def _add_state(self, obs: Any) -> dict[str, Any]:
        parts = {self.only: obs} if self.only else obs
        return {**parts, ENTRY: self.access.read().astype(np.float32)}


class Simulator:
    """A private copy of an environment; each step starts from a state that it is given."""

    def __init__(self, env: gymnasium.Env, name: str, repeat: int):
        self.access, self.repeat = find_access(env, name), repeat
        env.reset(seed=0)

    @property
    def angles(self) -> tuple[int, ...]:
        """Entries of the state that jump from pi to -pi, and may be set to any angle."""
        return self.access.angles

    def step(
        self, states: np.ndarray, actions: Sequence[Any], seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step from states (N,n) by N actions; return the next states, rewards and ends (N,).

        Each action is repeated as in the environment, but no time limit ends an episode.
        """
        self.access.seed(seed)
        return self.access.advance_rows(np.asarray(states, np.float64), actions, self.repeat)
