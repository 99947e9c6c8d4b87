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
from worldmodel.model.heads import ScalarHead
from worldmodel.model.mean_image import MeanImage
from worldmodel.model.multi_step import imagine_from_each_step
from worldmodel.spaces import ActionSpace, Batch, Losses, Metrics, ObservationSpace, State

ImaginedFeatures = tuple[int, Tensor, Tensor]
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
    """The parts of the world model that an objective may use."""

    dynamics: Dynamics
    reward: ScalarHead
    cont: ScalarHead


@dataclass(frozen=True)
class Context:
    """A training batch with the model's embeddings, states and features; leaves (B,T,...)."""

    batch: Batch
    embed: Tensor
    post: State
    prior: State
    feat: Tensor
    mean_images: Mapping[str, MeanImage]  # of every picture
    parts: Parts
    slow: Tensor | None = None  # the slow encoder's embeddings, if an objective uses them

    @cached_property
    def _imagined_states(self) -> Iterator[tuple[int, State, Tensor]]:
        batch = self.batch
        length = batch["is_first"].shape[1]
        return imagine_from_each_step(
            self.parts.dynamics, self.post, batch["prev_action"], batch["is_first"], length - 1
        )

    @cached_property
    def _imagined_features(self) -> list[ImaginedFeatures]:
        return [(0, self.feat, torch.ones_like(self.batch["is_first"], dtype=torch.bool))]

    def imagine_ahead(self, distances: Sequence[int]) -> Iterator[ImaginedFeatures]:
        """For each distance d: d, features (B,T-d,F) imagined d steps on from posteriors, and a
        mask (B,T-d) of the rollouts that cross no start of an episode.

        Entry t belongs to step t+d. All objectives of a model share these rollouts.
        """
        for distance in distances:
            while len(self._imagined_features) <= distance:
                step, state, unbroken = next(self._imagined_states)
                self._imagined_features.append(
                    (step, self.parts.dynamics.features(state), unbroken)
                )
            yield self._imagined_features[distance]

    def select_target(self, target: str) -> Tensor:
        """The target embeddings (B,T,E): with gradient (`grad`), without (`stop`), or the slow
        encoder's (`ema`).
        """
        if target == "ema":
            assert self.slow is not None
            return self.slow
        return self.embed.detach() if target == "stop" else self.embed


class Objective(nn.Module):
    """The base of all objectives; a subclass overrides what is different.

    A subclass is built as `Class(settings, spec)`: its section of the configuration, which the
    dataclass `Settings` of its file describes (None without one), and the model's `ModelSpec`.
    """

    loss_names: list[str]
    replaces: tuple[str, ...] = ()  # losses of the model that this one replaces
    needs_slow = False  # whether it uses the slow encoder's embeddings

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        raise NotImplementedError

    @property
    def can_draw(self) -> bool:
        """Whether `decode` makes pictures of features."""
        return False

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        """Mean pictures (B,T,H,W,C) of features (B,T,F) by name, without their mean images."""
        raise NotImplementedError

    def decode_vectors(self, feat: Tensor) -> dict[str, Tensor]:
        """Mean vectors (...,n) of features (...,F) by name, where there are any."""
        return {}

    def list_picture_decoders(self) -> dict[str, nn.Module]:
        """The `ImageDecoder` by picture, where `decode` only applies these."""
        return {}

    def begin_update(self, update: int) -> int:
        """Prepare update number `update`; return the phase of training that it belongs to."""
        return 0

    def after_update(self, mean: Mean) -> None:
        """Follow the weights' step; `mean` averages over ranks, which must all end up with the
        same.
        """

    def list_adjusted_weights(self) -> list[Tensor]:
        """Trained weights that `after_update` changes too."""
        return []


class DistanceObjective(Objective):
    """An objective that measures a distance between features and embeddings."""

    def distance(self, feat: Tensor, embed: Tensor) -> Tensor:
        """Distance (...) of features (...,F) from embeddings (...,E), which broadcast."""
        raise NotImplementedError
