"""Many futures from one state: with other luck, under other actions, and under whoever can drive
the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.quality.run_policies import (
    BEHAVIOR_LABELS,
    list_constant_actions,
    make_behaviors,
)
from worldmodel.spaces import State, join_states, map_state
from worldmodel.system.runtime import autocast, make_generator


@dataclass
class Future:
    """`kind` is luck, action or policy; pictures (L,H,W,3) uint8, expected rewards and
    continuation (L,).
    """

    kind: str
    name: str
    pictures: np.ndarray
    reward: np.ndarray
    cont: np.ndarray

    @property
    def label(self) -> str:
        """Its name and return; rewards count by the chance of being alive before them."""
        alive = np.cumprod(np.concatenate([[1.0], self.cont[:-1]]))
        as_done = " with the actions that were done" if self.kind == "luck" else ""
        return f"{self.name}{as_done}: expected return {float((alive * self.reward).sum()):.3g}"


def imagine_futures(
    observed: ObservedEpisode, length: int, samples: int
) -> tuple[list[Future], list[str]]:
    """From the end of the context, and a line on each driver that is missing."""
    found = []
    done = observed.actions(observed.context, length)
    for k in range(samples):
        observed.model.reseed(k)
        found.append(
            _make_future(
                observed, "luck", f"luck {k + 1}", observed.model.imagine(observed.start, done)
            )
        )
    for name, action in list_constant_actions(observed.run.action_space):
        observed.model.reseed(0)
        plan = torch.from_numpy(action).expand(1, length, -1)
        found.append(
            _make_future(observed, "action", name, observed.model.imagine(observed.start, plan))
        )
    able, left_out = make_behaviors(observed.run)
    for name in able:
        observed.model.reseed(0)
        found.append(
            _make_future(
                observed,
                "policy",
                BEHAVIOR_LABELS[name],
                imagine_policy(observed, able[name], length),
            )
        )
    return found, left_out


@torch.no_grad()
def imagine_policy(observed: ObservedEpisode, behavior, length: int) -> State:
    """A dream whose actions a behaviour chooses, step by step."""
    agent = observed.run.agent
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
