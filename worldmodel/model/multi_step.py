"""Imagined rollouts from every step of a batch at once, and averages over their distances."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.model.dynamics import Dynamics
from worldmodel.spaces import State, map_state


def imagine_from_each_step(
    dynamics: Dynamics,
    post: State,
    prev_action: Tensor,
    is_first: Tensor,
    steps: int,
    single_steps: bool = False,
) -> Iterator[tuple[int, State, Tensor]]:
    """Imagine from every posterior (B,T,...) at once, with the real actions.

    Yields for d = 1..steps: d, the states (B,T-d,...), and a mask (B,T-d) of the rollouts that
    cross no start of an episode. Entry t belongs to step t+d. With `single_steps` gradients go
    through the last step only.
    """
    length = prev_action.shape[1]
    state = post
    unbroken = torch.ones_like(is_first, dtype=torch.bool)
    for distance in range(1, steps + 1):
        reach = length - distance
        state = _first_steps(state, reach)
        state = map_state(state, Tensor.detach) if single_steps else state
        unbroken = unbroken[:, :reach] & ~is_first[:, distance:].bool()
        state = _imagine_one_step(dynamics, state, prev_action[:, distance:])
        yield distance, state, unbroken


def _first_steps(state: State, count: int) -> State:
    return map_state(state, lambda v: v[:, :count])


def _imagine_one_step(dynamics: Dynamics, state: State, actions: Tensor) -> State:
    """One imagined step from every (B,T) state at once."""
    flat = map_state(state, lambda v: v.flatten(0, 1))
    found = dynamics.imagine_step(flat, actions.flatten(0, 1))
    return map_state(found, lambda v: v.unflatten(0, actions.shape[:2]))


class Average:
    """The mean loss of each step over distances; zero where no distance counts."""

    def __init__(self, is_first: Tensor):
        self.total = torch.zeros(is_first.shape, device=is_first.device)
        self.count = torch.zeros_like(self.total)

    def add(self, distance: int, loss: Tensor, valid: Tensor) -> None:
        """Add the losses (B,T-d) of the steps from d on; only valid ones count."""
        pad = (distance, 0)
        self.total = self.total + F.pad(loss * valid, pad)
        self.count = self.count + F.pad(valid.float(), pad)

    def mean(self) -> Tensor:
        """(B,T)."""
        return self.total / self.count.clamp(min=1)
