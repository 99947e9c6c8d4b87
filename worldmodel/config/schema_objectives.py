"""Types and ranges of what representation objectives and goals are configured by. Nothing here
imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from worldmodel.config.ranges import Count, Natural, Positive, Range, Share, Weight

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

Objective = Literal[
    "reconstruction",
    "contrastive",
    "forward_contrastive",
    "inverse",
    "barlow",
    "prototypes",
    "bootstrap",
    "bottleneck",
    "reward_only",
]
# These say how near features are to a picture
COMPARING = (
    "contrastive",
    "forward_contrastive",
    "inverse",
)

Negatives = Literal["all", "others", "aligned"]
Target = Literal["grad", "stop", "ema"]


@dataclass(frozen=True)
class AugmentConfig:
    shift: Natural


@dataclass(frozen=True)
class EmaConfig:
    rate: Share


@dataclass(frozen=True)
class ContrastiveConfig:
    form: Literal["bilinear", "cosine"]
    size: Count
    temperature: Positive
    distances: list[Natural]
    negatives: Negatives
    target: Target


@dataclass(frozen=True)
class ForwardContrastiveConfig:
    similarity: Literal["distance", "dot"]
    size: Count
    negatives: Negatives
    target: Target


@dataclass(frozen=True)
class InverseConfig:
    distances: list[Count]
    size: Count
    forward: Weight
    target: Literal["grad", "stop"]


@dataclass(frozen=True)
class BarlowConfig:
    redundancy: Weight
    target: Target


@dataclass(frozen=True)
class PrototypesConfig:
    count: Annotated[int, Range(2)]
    size: Count
    temperature: Positive
    sharpness: Positive
    rounds: Count
    freeze: Natural


@dataclass(frozen=True)
class BootstrapConfig:
    distances: list[Natural]


@dataclass(frozen=True)
class BottleneckConfig:
    nats: Positive
    beta: Positive
    rate: Share


@dataclass(frozen=True)
class RewardOnlyConfig:
    distances: list[Count]


@dataclass(frozen=True)
class GoalConfig:
    image: str | None
    run: str | None
    episode: int
    step: int
    distance: Literal["belief", "kl", "learnt"]
    at: Literal["every", "end"]


def objective_contradictions(c: Config) -> list[str]:
    """What is impossible together among objectives and goals, one line each."""
    found = []
    used: list[str] = [name for name, weight in c.loss.objective.items() if weight]
    for name in used:
        settings = getattr(c, name, None)
        furthest = max(getattr(settings, "distances", [0]))
        if furthest >= c.replay.length:
            found.append(
                f"{name}.distances: {furthest} must be shorter than replay.length "
                f"{c.replay.length}"
            )
        if getattr(settings, "negatives", "all") != "all" and c.replay.batch < 2:
            found.append(
                f"{name}.negatives: a replay.batch of {c.replay.batch} has no other sequence; "
                f"take all"
            )
    shift = c.augment.shift
    if shift and c.env.obs == "state":
        found.append(f"augment.shift: {shift} pixels need pictures; env.obs is state")
    elif 2 * shift >= min(c.env.size):
        found.append(
            f"augment.shift: {shift} pixels either way are more than a picture of env.size "
            f"{c.env.size} has"
        )
    return found + _goal_contradictions(c, used)


def heaviest(weights: Mapping[Any, float]) -> str:
    """Of the objectives that can compare, the one of the largest weight, which `goal.distance:
    learnt` asks.
    """
    return max((name for name in weights if name in COMPARING), key=weights.__getitem__)


def _goal_contradictions(c: Config, used: list[str]) -> list[str]:
    if c.behavior.name != "mpc" or c.planner.score != "goal_distance":
        return []
    found = []
    if (c.goal.image is None) == (c.goal.run is None):
        how = "neither is given" if c.goal.image is None else "both are given"
        found.append(f"planner.score: goal_distance needs goal.image or goal.run; {how}")
    if c.goal.distance == "learnt" and not any(name in COMPARING for name in used):
        found.append(
            f"goal.distance: learnt needs one of {', '.join(COMPARING)} in loss.objective"
        )
    elif (
        c.goal.distance == "learnt"
        and c.inverse.forward == 0
        and heaviest(c.loss.objective) == "inverse"
    ):
        found.append(
            "goal.distance: learnt by inverse needs its forward model; inverse.forward is 0"
        )
    return found
