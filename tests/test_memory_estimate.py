"""What needs more memory than there is, is refused before it is allocated."""

import pytest
import torch

from worldmodel import memory_estimate
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.spaces import ActionSpace, ObservationSpace


def test_a_million_choices_of_action_count(monkeypatch):
    config = loading.parse(["debug"])
    observation = ObservationSpace({"image": (32, 32, 3)})
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: 3 * 10**8)
    memory_estimate.check_memory(config, observation, ActionSpace(2), torch.device("cpu"))
    with pytest.raises(UsageError, match="a vector of 1,000,000 numbers"):
        memory_estimate.check_memory(
            config, observation, ActionSpace(10**6, (10**6,), True), torch.device("cpu")
        )
