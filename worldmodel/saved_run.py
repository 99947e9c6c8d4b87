"""A saved run in three lines: load it, act with it, imagine with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import build, memory_estimate
from worldmodel.checkpoint import store, validate
from worldmodel.config import loading
from worldmodel.config.schema import Config, learns_policy
from worldmodel.errors import RunError, UsageError
from worldmodel.model.mean_image import to_pixels
from worldmodel.policy.actor_critic import ActorCritic
from worldmodel.policy.agent import Agent, Carry
from worldmodel.run_directory import RunDir
from worldmodel.spaces import ActionSpace, ObservationSpace, select_prefix
from worldmodel.system import runtime
from worldmodel.system.runtime import autocast, make_generator

DRIVING = ("behavior", "planner", "goal")  # what can be changed on a saved run


class Run:
    """A trained agent, opened from its run directory; needs no environment."""

    def __init__(
        self,
        c: Config,
        path: Path,
        agent: Agent,
        observation: ObservationSpace,
        frames: int,
        policy: ActorCritic | None = None,
    ):
        self.observation_space = observation
        self.config, self.path, self.agent, self.frames, self.policy = (
            c,
            path,
            agent,
            frames,
            policy,
        )
        self.model, self.action_space = agent.model, agent.space
        self.generator = make_generator(c.run.seed, 8, device=agent.device.type)

    def driven(self, changes: Sequence[tuple[str, str]]) -> Run:
        """The same model driven in another way: changed keys of behavior, planner and goal, as
        (key, text).
        """
        c = loading.change(self.config, changes, DRIVING)
        if learns_policy(c) and self.policy is None:
            raise RunError(
                "this run trained no actor and no critic: behavior.name can be random or mpc, "
                "the latter with "
                "planner.score reward and planner.proposals 0",
                2,
            )
        agent = build.make_agent(c, self.model, self.action_space, self.agent.device, self.policy)
        return Run(c, self.path, agent, self.observation_space, self.frames, self.policy)

    @classmethod
    def open(cls, path: str | Path, device: str = "cpu") -> Run:
        """The newest good checkpoint of a run directory; RunError or CheckpointError in
        one line.
        """
        run = RunDir(Path(path))
        c = run.load_config()
        saved = store.load_latest(run.checkpoints)
        if saved is None:
            raise RunError(f"{path} holds no checkpoint yet; train it first", 4)
        with store.report_incompatible(saved.path):
            observation, space = spaces_from(saved.state)
            frames = validate.check_integer(saved.state["frames"], "frames")
            groups = {"model": saved.groups["model"], "policy": saved.groups.get("policy", {})}
        target = runtime.pick_device(device)
        memory_estimate.check_weights(c, observation, space)
        with store.report_incompatible(saved.path):
            model = build.make_model(c, observation, space).to(target)
        store.load_into(model, groups["model"], "model")
        model.requires_grad_(False)
        policy = build.make_policy(c, model, space)
        if policy is not None:
            store.load_into(policy.to(target), groups["policy"], "policy")
            policy.requires_grad_(False)
        agent = build.make_agent(c, model, space, target, policy)
        return cls(c, run.path, agent, observation, frames, policy)

    def act(
        self, obs: Any, carry: Carry | None = None, mode: str = "eval"
    ) -> tuple[np.ndarray, Carry]:
        """A picture, or a dict of image and/or vector, to an action (A,); carry None starts an
        episode.
        """
        obs = obs if isinstance(obs, dict) else {"image" if np.ndim(obs) == 3 else "vector": obs}
        wanted = {"image": self.observation_space.image, "vector": self.observation_space.vector}
        for key, shape in wanted.items():
            if shape and (key not in obs or np.shape(obs[key]) != tuple(np.atleast_1d(shape))):
                raise UsageError(
                    f"this run sees {key} of shape {shape}, not {np.shape(obs.get(key))}"
                )
        if self.observation_space.image and np.asarray(obs["image"]).dtype != np.uint8:
            raise UsageError(
                f"pictures are uint8, 0 to 255, and this one is {np.asarray(obs['image']).dtype}"
            )
        batch = {
            k: torch.from_numpy(np.asarray(v)[None])
            for k, v in obs.items()
            if k in ("image", "vector")
        }
        batch["is_first"] = torch.tensor([carry is None])
        action, carry = self.agent.act(batch, carry or self.agent.init(1), mode, self.generator)
        return action[0].numpy(), carry

    @torch.no_grad()
    def draw(self, carry: Carry) -> np.ndarray:
        """What the model takes the present to look like: a picture (H,W,3) uint8."""
        with autocast(self.agent.device, self.agent.precision):
            feat = self.model.dynamics.features(select_prefix(carry, "state/")).unsqueeze(1)
            return to_pixels(self.model.decode(feat))[0, 0].cpu().numpy()

    @torch.no_grad()
    def imagine(self, carry: Carry, actions: np.ndarray) -> np.ndarray:
        """Dream on from a carry: actions (H,A), choices one-hot -> pictures (H,H,W,3) uint8."""
        actions = np.asarray(actions, np.float32)
        if actions.ndim != 2 or actions.shape[1] != self.action_space.size:
            raise UsageError(
                f"actions are (steps, {self.action_space.size}) here, and these are "
                f"{actions.shape}"
            )
        plan = torch.as_tensor(actions, device=self.agent.device)[None]
        with autocast(self.agent.device, self.agent.precision):
            states = self.model.dynamics.imagine(
                select_prefix(carry, "state/"), plan, self.generator
            )
            return (
                to_pixels(self.model.decode(self.model.dynamics.features(states)))[0].cpu().numpy()
            )


def spaces_from(state: dict[str, Any]) -> tuple[ObservationSpace, ActionSpace]:
    """The spaces a checkpoint was trained with."""
    validate.check_spaces(state)
    o, a = state["observation"], state["action"]
    height, width, channels = o["image"] or (0, 0, 0)
    observation = ObservationSpace((height, width, channels) if o["image"] else None, o["vector"])
    return observation, ActionSpace(a["size"], tuple(a["groups"]), a["scalar"])
