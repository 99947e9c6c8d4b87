"""Planners search action sequences; they see a score function and never a model.

    planner(score_fn, mean, std, proposal, generator) -> plan (B,H,A)

`score_fn` maps candidates (B,N,H,A) to scores (B,N), higher is better. `mean` and `std` (B,H,A)
are where the search starts; a proposal (box or one-hot) draws legal candidates around them and
refits them to weighted candidates.

A planner that can use more than numbers asks whether the score offers it, by a protocol as
`HasGradient` below: `isinstance(score_fn, HasGradient)`. One file per planner; registry.py names
them, build.py imports them, the behavior `mpc` and `compare` call them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

ScoreFn = Callable[[Tensor], Tensor]
WORST = -1e30  # in place of a score that is not finite


@runtime_checkable
class HasGradient(Protocol):
    """A score that has a gradient by the candidates."""

    def score_with_gradient(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,N) and their gradient (B,N,H,A) by candidates (B,N,H,A)."""


class ControlProblem(Protocol):
    """Minus a score as a sum of costs along a deterministic rollout: states n, actions A, B
    problems. All numbers are float64.
    """

    start: Tensor  # (B,n)

    def step(self, states: Tensor, actions: Tensor, time: int) -> tuple[Tensor, Tensor]:
        """Take step number `time` from states (...,B,n) by actions (...,B,A): the states after it,
        and its costs (...,B).
        """

    def linearize(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of the next states by states (H,B,n,n) and by actions (H,B,n,A), of all
        H steps from states (H,B,n) by actions (H,B,A).
        """

    def expand_cost(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Of the costs of all H steps: their gradient (H,B,n+A) and Hessian (H,B,n+A,n+A)."""


@runtime_checkable
class HasControlProblem(Protocol):
    """A score whose plans are those of a problem of optimal control."""

    def make_problem(self, horizon: int, control: float, copies: int = 1) -> ControlProblem:
        """The problem over so many steps, where each squared action also costs `control`.

        With copies K it has B * K problems: all B, K times one after the other.
        """


def compute_scores(score_fn: ScoreFn, candidates: Tensor) -> Tensor:
    """Scores (B,N) of candidates (B,N,H,A), non-finite ones set to the worst."""
    scores = score_fn(candidates)
    assert scores.shape == candidates.shape[:2], (
        f"scores {scores.shape} for candidates {candidates.shape}"
    )
    return scores.float().nan_to_num(nan=WORST, posinf=WORST, neginf=WORST)


def select_candidates(candidates: Tensor, index: Tensor) -> Tensor:
    """Candidates (B,N,H,A) at index (B,K) -> (B,K,H,A)."""
    return candidates.gather(1, index[..., None, None].expand(-1, -1, *candidates.shape[2:]))
