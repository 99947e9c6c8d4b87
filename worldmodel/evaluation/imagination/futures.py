"""Many futures from one state: with other luck, under other actions, and under whoever can drive
the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.evaluation.imagination.scene import Scene
from worldmodel.evaluation.play.parallel_rollouts import BEHAVIORS, drivers
from worldmodel.spaces import ActionSpace, State, join_states, map_state
from worldmodel.system.runtime import autocast, make_generator

MOST_ACTIONS = 8


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


def futures(scene: Scene, length: int, samples: int) -> tuple[list[Future], list[str]]:
    """From the end of the context, and a line on each driver that is missing."""
    found = []
    done = scene.actions(scene.context, length)
    for k in range(samples):
        scene.model.reseed(k)
        found.append(_seen(scene, "luck", f"luck {k + 1}", scene.model.imagine(scene.start, done)))
    for name, action in held(scene.run.action_space):
        scene.model.reseed(0)
        plan = torch.from_numpy(action).expand(1, length, -1)
        found.append(_seen(scene, "action", name, scene.model.imagine(scene.start, plan)))
    able, left_out = drivers(scene.run)
    for name in able:
        scene.model.reseed(0)
        found.append(_seen(scene, "policy", BEHAVIORS[name], driven(scene, able[name], length)))
    return found, left_out


def held(space: ActionSpace) -> list[tuple[str, np.ndarray]]:
    """Actions to keep to: every choice of every group, or nothing and both ends of every
    dimension; the first few.
    """
    found: list[tuple[str, np.ndarray]] = []
    if not space.discrete:
        found.append(("nothing", np.zeros(space.size, np.float32)))
        names = (
            ["the action"] if space.size == 1 else [f"dimension {i}" for i in range(space.size)]
        )
        for i in range(space.size):
            for end in (-1.0, 1.0):
                action = np.zeros(space.size, np.float32)
                action[i] = end
                found.append((f"{names[i]} at {end:+.0f}", action))
        return found[:MOST_ACTIONS]
    for i, count in enumerate(space.groups):
        for choice in range(count):
            picks = [torch.tensor(choice if i == j else 0) for j in range(len(space.groups))]
            name = f"choice {choice}" if len(space.groups) == 1 else f"group {i}: choice {choice}"
            found.append((name, space.one_hot(picks).numpy()))
    return found[:MOST_ACTIONS]


@torch.no_grad()
def driven(scene: Scene, behavior, length: int) -> State:
    """A dream whose actions a behaviour chooses, step by step."""
    agent = scene.run.agent
    generator = make_generator(scene.model.seed, 14, device=agent.device.type)
    state, kept, steps = scene.start, behavior.init(1), []
    for t in range(length):
        fresh = torch.tensor([t == 0], device=agent.device)
        with autocast(agent.device, agent.precision):
            action, kept = behavior.act(state, kept, fresh, "eval", generator)
        found = scene.model.imagine(state, action.float()[:, None])
        steps.append(found)
        state = map_state(found, lambda v: v[:, 0])
    return join_states(steps, lambda leaves: torch.cat(leaves, 1))


def _seen(scene: Scene, kind: str, name: str, states: State) -> Future:
    numbers = (scene.model.reward(states), scene.model.cont(states))
    reward, cont = (x[0].numpy().astype(np.float64) for x in numbers)
    return Future(kind, name, scene.pictures(states)[0], reward, cont)
