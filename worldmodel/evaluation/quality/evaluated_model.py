"""The interface through which evaluation uses a model; tests implement it by a simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from worldmodel.spaces import Columns, State

Planner = Callable[[State], Tensor]  # states (N,...) -> plans (N,P,A)


class EvaluatedModel(Protocol):
    """A world model in evaluation; states are opaque, all results are on the CPU in fp32."""

    can_draw: bool  # whether `decode` works

    def observe(self, episode: Columns) -> tuple[State, State]:
        """Posterior and prior states (T,...) of an episode's rows."""
        ...

    def reseed(self, number: int) -> None:
        """Seed the random draws that follow."""
        ...

    def observe_step(self, state: State, row: dict[str, Any]) -> State:
        """The posterior after one more row: states (1,...)."""
        ...

    def imagine(self, state: State, actions: Tensor) -> State:
        """Sample one open-loop rollout: states (N,...), actions (N,H,A) -> (N,H,...)."""
        ...

    def decode(self, state: State) -> Tensor:
        """Mean pictures (...,H,W,3) in [0, 1], side by side where the model sees several."""
        ...

    def reward(self, state: State) -> Tensor:
        """Expected reward on arrival (...)."""
        ...

    def cont(self, state: State) -> Tensor:
        """Probability that the episode continues after arrival (...)."""
        ...

    def feat(self, state: State) -> Tensor:
        """Features (...,F) without sampling noise."""
        ...

    def kl(self, post: State, prior: State) -> Tensor:
        """KL divergence of posterior from prior, in nats (...)."""
        ...

    def centre(self, posts: State) -> State:
        """The constant prior with the smallest mean `kl` to posteriors (N,...)."""
        ...
