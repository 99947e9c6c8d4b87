"""A reward that the model never learned: somebody's function of what the model decodes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodel.errors import UsageError
from worldmodel.model.heads import Passage, ScalarHead

# Pictures (...,H,W,C) in [0, 1] and vectors (...,n) by name, to rewards (...)
Reward = Callable[[dict[str, Tensor]], Tensor]


class GivenReward(ScalarHead):
    """Stands in for the reward head of a trained model; `decode` gives what features show."""

    def __init__(self, name: str, decode: Callable[[Tensor], dict[str, Tensor]], function: Reward):
        super().__init__()
        self.name, self.decode, self.function = name, decode, function
        self.net = Passage()  # type: ignore[assignment]

    def mean_of(self, read: Tensor) -> Tensor:
        return self.rate(self.decode(read), read.shape[:-1])

    def rate(self, observations: dict[str, Tensor], shape: torch.Size) -> Tensor:
        """The rewards of observations (...,), which must be one number each."""
        found = self.function(observations)
        if not isinstance(found, Tensor) or found.shape != shape:
            kind = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise UsageError(
                f"--reward: {self.name} returned {kind[:80]} for observations {tuple(shape)}; it "
                f"must return a tensor with one reward for each"
            )
        return found.float()
