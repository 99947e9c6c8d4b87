"""Representation objectives: what a latent should remember; `objective(ctx) -> (losses, metrics)`.

One file each; registry.py names them, build.py imports them, the world model calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from worldmodel.model.dynamics import Dynamics
from worldmodel.model.heads import ContinueHead, ScalarHead
from worldmodel.model.mean_image import MeanImage
from worldmodel.model.multi_step import dreams
from worldmodel.spaces import ActionSpace, Batch, Losses, Metrics, ObservationSpace, State

Ahead = tuple[int, Tensor, Tensor]
Mean = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelSpec:
    """The spaces, sizes and rates of the model that an objective is built for."""

    obs: ObservationSpace
    space: ActionSpace
    feat: int
    embed: int
    cnn: list[int]
    patch: int
    units: int
    slow_rate: float  # of a slow network, at each update


@dataclass(frozen=True)
class Parts:
    """What of the world model an objective may use beside what it saw."""

    dynamics: Dynamics
    reward: ScalarHead
    cont: ContinueHead


@dataclass(frozen=True)
class Context:
    """One training batch as the model saw it; leaves (B,T,...)."""

    batch: Batch
    embed: Tensor
    post: State
    prior: State
    feat: Tensor
    mean_images: Mapping[str, MeanImage]  # of every picture
    parts: Parts
    slow: Tensor | None = None  # the slow encoder's embeddings, where an objective aims at them

    @cached_property
    def _dreams(self) -> Iterator[tuple[int, State, Tensor]]:
        batch = self.batch
        length = batch["is_first"].shape[1]
        return dreams(
            self.parts.dynamics, self.post, batch["prev_action"], batch["is_first"], length - 1
        )

    @cached_property
    def _dreamt(self) -> list[Ahead]:
        return [(0, self.feat, torch.ones_like(self.batch["is_first"], dtype=torch.bool))]

    def ahead(self, distances: Sequence[int]) -> Iterator[Ahead]:
        """For each distance d: d, features (B,T-d,F) dreamt so far on from posteriors, and which
        of them no episode's start lies in the way of (B,T-d). Entry t belongs to step t+d.
        Objectives of a mix share their dreams.
        """
        for distance in distances:
            while len(self._dreamt) <= distance:
                step, state, unbroken = next(self._dreams)
                self._dreamt.append((step, self.parts.dynamics.features(state), unbroken))
            yield self._dreamt[distance]

    def aim(self, target: str) -> Tensor:
        """The embeddings (B,T,E) to aim at: `grad`, `stop` or `ema`."""
        if target == "ema":
            assert self.slow is not None
            return self.slow
        return self.embed.detach() if target == "stop" else self.embed


class Objective(nn.Module):
    """What an objective says of itself; a subclass overrides what is different.

    A subclass is built as `Class(settings, spec)`: its section of the configuration, which the
    dataclass `Settings` of its file describes (None without one), and the model's `ModelSpec`.
    """

    loss_names: list[str]
    replaces: tuple[str, ...] = ()  # losses of the model that this one stands for
    needs_slow = False  # whether it aims at the slow encoder's embeddings

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        raise NotImplementedError

    @property
    def draws(self) -> bool:
        """Whether `decode` makes pictures of features."""
        return False

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        """Mean pictures (B,T,H,W,C) of features (B,T,F) by name, less their mean images."""
        raise NotImplementedError

    def phase(self, update: int) -> int:
        """Before update number `update`: learn what depends on that number, and say which phase it
        belongs to.
        """
        return 0

    def after_update(self, mean: Mean) -> None:
        """Once the weights have moved; `mean` is over the ranks, which must all come to
        the same.
        """

    def by_hand(self) -> list[Tensor]:
        """Weights that `after_update` moves besides the optimiser."""
        return []


class Comparing(Objective):
    """An objective that can say how far features are from what an embedding shows."""

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        """(...,F) and (...,E), which broadcast, to (...); less is nearer."""
        raise NotImplementedError
