"""What the programs ask of the package of environments, which is handed in and never imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from worldmodel.config.schema import DistractConfig, EnvConfig


class Environments(Protocol):
    """The functions of the package `envs` that a training or an evaluation calls."""

    def configured(self, env: EnvConfig, distract: DistractConfig) -> Callable[..., Any]:
        """Return a function that makes one environment as a run is configured."""

    def make_vector(
        self, make: Callable[[], Any], num: int, *, timeout_s: float, restart_budget: int
    ) -> Any:
        """Return `num` environments side by side, a context manager."""

    def renderer(self, env: EnvConfig, before: EnvConfig | None) -> str:
        """Choose what draws the pictures; a resumed run keeps what drew them `before`."""
