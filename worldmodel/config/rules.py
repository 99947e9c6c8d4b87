"""Values that a rule chooses: what stands where a key of a configuration holds `auto`.

A rule looks at the task's time step, its length and its kind of actions and at the size of
pictures, never at a task's name and never at the machine. Its choice is saved as a plain value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

AUTO = "auto"
CONTROL_TIME = 0.05  # seconds that an action lasts at most, unless a control step lasts longer
UPDATES_PER_FRAME = 0.125
FEWEST, MOST = 0.2, 0.5  # updates per agent step
EPISODE_SHARE = 0.2  # of an episode, which the discount looks ahead
LEAST_DISCOUNT, MOST_DISCOUNT = 0.95, 0.995
GRID = 16  # places along a side of the picture after the first layer of the encoder


class TaskFacts(Protocol):
    """What the environments tell of a task; None is unknown."""

    @property
    def control_step(self) -> float | None:
        """Seconds of one control step."""

    @property
    def episode_frames(self) -> int | None:
        """Control steps after which an episode ends."""

    @property
    def discrete(self) -> bool | None:
        """Whether actions are choices."""


@dataclass(frozen=True)
class UnknownTask:
    """A task that nobody described."""

    control_step: float | None = None
    episode_frames: int | None = None
    discrete: bool | None = None


@dataclass(frozen=True)
class Choice:
    """A value that a rule chose, and why."""

    key: str
    value: Any
    why: str


def choose_repeat(values: Mapping[str, Any], facts: TaskFacts) -> Choice:
    """An action lasts 0.05 seconds; choices are never repeated."""
    step = facts.control_step
    if facts.discrete:
        return Choice("env.repeat", 1, "actions are choices")
    if step is None:
        return Choice("env.repeat", 1, "the task's time step is unknown")
    repeat = max(1, int(CONTROL_TIME / step + 1e-6))
    why = f"control steps of {step:.3g} s, actions of {CONTROL_TIME} s"
    return Choice("env.repeat", repeat, why)


def choose_updates(values: Mapping[str, Any], facts: TaskFacts) -> Choice:
    """As many updates per frame on every task, within bounds per agent step."""
    repeat = values["env"]["repeat"]
    found = min(MOST, max(FEWEST, UPDATES_PER_FRAME * repeat))
    why = f"one per {1 / UPDATES_PER_FRAME:g} frames, {FEWEST} to {MOST} per agent step"
    return Choice("train.updates_per_step", found, why)


def choose_patch(values: Mapping[str, Any], facts: TaskFacts) -> Choice:
    """The first layer leaves 16 places along each side of a picture, or more; the other layers
    halve them.
    """
    sizes = [values["env"]["size"], *values["env"]["sizes"].values()]
    sides = [side for size in sizes for side in size]
    halvings = 2 ** (len(values["model"]["cnn"]) - 1)
    fitting = [p for p in range(3, 17) if all(side % (p * halvings) == 0 for side in sides)]
    patch = max((p for p in fitting if p <= min(sides) // GRID), default=2)
    return Choice("model.patch", patch, f"the shorter side of a picture has {min(sides)} pixels")


def choose_discount(values: Mapping[str, Any], facts: TaskFacts) -> Choice:
    """The discount looks a fifth of an episode ahead, as in TD-MPC2 (Hansen et al. 2024)."""
    frames = facts.episode_frames
    if frames is None:
        return Choice("imag.discount", MOST_DISCOUNT, "no time limit of episodes is known")
    steps = frames / values["env"]["repeat"]
    ahead = max(1.0, EPISODE_SHARE * steps)
    found = round(min(MOST_DISCOUNT, max(LEAST_DISCOUNT, 1 - 1 / ahead)), 4)
    return Choice("imag.discount", found, f"episodes have {steps:g} agent steps")


def choose_gradient(values: Mapping[str, Any], facts: TaskFacts) -> Choice:
    """Through the model for continuous actions, likelihood ratios for choices."""
    if facts.discrete:
        return Choice("actor.gradient", "reinforce", "actions are choices")
    return Choice("actor.gradient", "dynamics", "actions are continuous")


# In the order in which they choose: a rule may read what an earlier one chose.
RULES: dict[str, Callable[[Mapping[str, Any], TaskFacts], Choice]] = {
    "env.repeat": choose_repeat,
    "train.updates_per_step": choose_updates,
    "model.patch": choose_patch,
    "imag.discount": choose_discount,
    "actor.gradient": choose_gradient,
}
