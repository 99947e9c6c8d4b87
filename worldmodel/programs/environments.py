"""The interface of the package `envs`, which programs are given and never import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from worldmodel.config.rules import TaskFacts
from worldmodel.config.schema import DistractConfig, EnvConfig
from worldmodel.model.dynamics import Simulator


class Environments(Protocol):
    """The functions of the package `envs` that a training or an evaluation calls."""

    def check_name(self, task: str) -> None:
        """Raise an error with `exit_code` 2 or 3 unless a task can be made."""

    def names_code(self, task: str) -> bool:
        """Say whether making the environment of a task imports code that the task names."""

    def may_name_code(self, kwargs: Mapping[str, Any]) -> bool:
        """Say whether env.kwargs may name a file, a module or an address."""

    def make_factory(
        self,
        env: EnvConfig,
        distract: DistractConfig,
        trust: bool = False,
        simulator: bool = False,
    ) -> Callable[..., Any]:
        """Return a function that makes one environment with a run's settings.

        A task that names code is refused without `trust`. With `simulator` the simulator's state
        is observed too.
        """

    def make_simulator(self, env: EnvConfig, trust: bool = False) -> Simulator:
        """Make a simulator of a run's task, which steps from any state."""

    def make_vector(
        self, make: Callable[[], Any], num: int, *, timeout_s: float, restart_budget: int
    ) -> Any:
        """Make a vector of `num` environments, a context manager."""

    def load_expert(self, task: str) -> Callable[[Any], Any]:
        """Return the expert policy of a built-in task, which acts on its environment."""

    def describe_task(self, env: EnvConfig) -> TaskFacts:
        """Read the facts of a run's task that rules need; it makes the environment."""

    def choose_renderer(self, env: EnvConfig, before: EnvConfig | None) -> str:
        """Choose the renderer; a resumed run keeps the one it used `before`."""
