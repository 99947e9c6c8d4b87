"""Rewards and ends of built-in tasks as equations of the vector observation (PETS, section 5).

They hold for `env.repeat: 1`: with more frames to a step, rewards of unseen frames count too.
A model's heads read features alone, so that where rewards are predicted the action counts as 0:
`cartpole_swingup` then lacks its cost of at most 0.01 a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names are asked for before torch is imported
    from torch import Tensor


def never_ends(vector: Tensor) -> Tensor:
    return vector.new_zeros(vector.shape[:-1]).bool()


@dataclass(frozen=True)
class KnownReward:
    """What a step earned, and whether it ended the episode, by the vector (...,n) after it.

    `reward` also takes the action (...,A) of that step, in [-1, 1].
    """

    reward: Callable[[Tensor, Tensor], Tensor]  # (...,n), (...,A) -> (...)
    ends: Callable[[Tensor], Tensor] = never_ends  # (...,n) -> (...) bool


def reward_balance(vector: Tensor, action: Tensor) -> Tensor:
    """Every step earns 1, that which fails too."""
    return vector.new_ones(vector.shape[:-1])


def has_fallen(vector: Tensor) -> Tensor:
    """Position beyond 2.4 m or angle beyond 12 degrees; the vector is (x, speed, angle, spin)."""
    return (vector[..., 0].abs() > 2.4) | (vector[..., 2].abs() > math.radians(12))


def reward_swingup(vector: Tensor, action: Tensor) -> Tensor:
    """exp(-|tip - (0, 1)|^2) - 0.01 action^2; the vector is (x, speed, cos, sin, spin)."""
    x = vector[..., 0] + vector[..., 3]
    y = vector[..., 2] - 1
    return (-(x.square() + y.square())).exp() - 0.01 * action.square().sum(-1)


def reward_upright(vector: Tensor, action: Tensor) -> Tensor:
    """(1 + cos) / 2; the vector is (cos, sin, speed)."""
    return (1 + vector[..., 0]) / 2


def reward_closeness(vector: Tensor, action: Tensor) -> Tensor:
    """1 / (1 + (distance / 0.3)^2); the vector is (position, speed, goal), two entries each."""
    gap = vector[..., :2] - vector[..., 4:6]
    return 1 / (1 + gap.square().sum(-1) / 0.3**2)


def reward_second_room(vector: Tensor, action: Tensor) -> Tensor:
    """1 / (1 + (distance / 0.3)^2) of a fixed goal; the vector is (x, y)."""
    x, y = vector[..., 0] - 0.65, vector[..., 1] + 0.5
    return 1 / (1 + (x.square() + y.square()) / 0.3**2)


KNOWN_REWARDS = {
    "cartpole": KnownReward(reward_balance, has_fallen),
    "cartpole_swingup": KnownReward(reward_swingup),
    "pendulum": KnownReward(reward_upright),
    "pointmass": KnownReward(reward_closeness),
    "noisy_room": KnownReward(reward_second_room),
}
