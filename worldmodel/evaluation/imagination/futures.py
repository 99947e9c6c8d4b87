"""Many futures from one state: with other random draws, other actions, other policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.quality.policies import BEHAVIOR_LABELS, list_constant_actions
from worldmodel.spaces import State, join_states, map_state
from worldmodel.system.runtime import autocast, make_generator


@dataclass
class Future:
    """An imagined rollout: pictures (L,H,W,3) uint8, expected rewards and continuation (L,).

    `kind` is sample, action or policy.
    """

    kind: str
    name: str
    pictures: np.ndarray
    reward: np.ndarray
    cont: np.ndarray

    @property
    def label(self) -> str:
        """Name and expected return; each reward is weighted by the probability of reaching it."""
        alive = np.cumprod(np.concatenate([[1.0], self.cont[:-1]]))
        recorded = " of the recorded actions" if self.kind == "sample" else ""
        return f"{self.name}{recorded}: expected return {float((alive * self.reward).sum()):.3g}"


def imagine_futures(
    observed: ObservedEpisode, behaviors: Mapping[str, Any], length: int, samples: int
) -> list[Future]:
    """Imagine from the end of the context: samples, constant actions, behaviors by name."""
    found = []
    recorded = observed.actions(observed.context, length)
    for k in range(samples):
        observed.model.reseed(k)
        states = observed.model.imagine(observed.start, recorded)
        found.append(_make_future(observed, "sample", f"sample {k + 1}", states))
    for name, action in list_constant_actions(observed.model.agent.space):
        observed.model.reseed(0)
        plan = torch.from_numpy(action).expand(1, length, -1)
        found.append(
            _make_future(observed, "action", name, observed.model.imagine(observed.start, plan))
        )
    for name, behavior in behaviors.items():
        observed.model.reseed(0)
        states = imagine_policy(observed, behavior, length)
        found.append(_make_future(observed, "policy", BEHAVIOR_LABELS[name], states))
    return found


@torch.no_grad()
def imagine_policy(observed: ObservedEpisode, behavior, length: int) -> State:
    """Imagine step by step with the actions that a behavior chooses."""
    agent = observed.model.agent
    generator = make_generator(observed.model.seed, 14, device=agent.device.type)
    state, carry, steps = observed.start, behavior.init(1), []
    for t in range(length):
        fresh = torch.tensor([t == 0], device=agent.device)
        with autocast(agent.device, agent.precision):
            action, carry = behavior.act(state, carry, fresh, "eval", generator)
        found = observed.model.imagine(state, action.float()[:, None])
        steps.append(found)
        state = map_state(found, lambda v: v[:, 0])
    return join_states(steps, lambda leaves: torch.cat(leaves, 1))


def _make_future(observed: ObservedEpisode, kind: str, name: str, states: State) -> Future:
    numbers = (observed.model.reward(states), observed.model.cont(states))
    reward, cont = (x[0].numpy().astype(np.float64) for x in numbers)
    return Future(kind, name, observed.decode_pictures(states)[0], reward, cont)
