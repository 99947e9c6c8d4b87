"""`Run`: a saved run to act with and to imagine with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel import build, memory_estimate
from worldmodel.checkpoint import store, validate
from worldmodel.checkpoint.saved_spaces import read_spaces
from worldmodel.config import loading
from worldmodel.config.schema import Config, learns_policy
from worldmodel.errors import RunError, UsageError
from worldmodel.model.mean_image import to_pixels
from worldmodel.packing import file_list
from worldmodel.packing.golden_output import check_golden
from worldmodel.packing.locate import locate_run
from worldmodel.policy.actor_critic import ActorCritic
from worldmodel.policy.agent import Agent, Carry
from worldmodel.rollout.montage import join_pictures
from worldmodel.run_directory import RunDir
from worldmodel.spaces import ObservationSpace, select_prefix
from worldmodel.system import runtime
from worldmodel.system.runtime import autocast, make_generator

OVERRIDABLE = ("behavior", "planner", "goal")  # sections that may differ from training


class Run:
    """A trained agent, opened from its run directory without an environment."""

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

    def apply_overrides(self, overrides: Sequence[tuple[str, str]]) -> Run:
        """The same model with other keys of behavior, planner and goal, as pairs (key, text)."""
        c = loading.apply_overrides(self.config, overrides, OVERRIDABLE)
        if learns_policy(c) and self.policy is None:
            raise RunError(
                "this run trained no actor and no critic: behavior.name can be random or mpc, "
                "the latter with planner.score reward and planner.proposals 0",
                2,
            )
        agent = build.make_agent(c, self.model, self.action_space, self.agent.device, self.policy)
        return Run(c, self.path, agent, self.observation_space, self.frames, self.policy)

    @classmethod
    def open(cls, path: str | Path, device: str = "cpu") -> Run:
        """Open the newest sound checkpoint of a run directory, or of a packed run: a directory, a
        zip file or hf://user/repo; RunError or DataError if there is none.
        """
        run = RunDir(locate_run(path))
        listed = file_list.verify_files(run.path) if file_list.is_packed(run.path) else None
        c = run.load_config()
        saved = store.load_latest(run.checkpoints, change=False)
        if saved is None:
            raise RunError(f"{path} holds no checkpoint yet; train it first", 4)
        with store.report_incompatible(saved.path):
            observation, space = read_spaces(saved.state)
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
        opened = cls(c, run.path, agent, observation, frames, policy)
        if listed is not None:
            check_golden(opened, run.path, listed)
        return opened

    def act(
        self, obs: Any, carry: Carry | None = None, mode: str = "eval"
    ) -> tuple[np.ndarray, Carry]:
        """Choose an action (A,) for a dict of observations, or for the one picture or vector.

        `carry` is None at the start of an episode.
        """
        seen = check_seen(self.observation_space, obs)
        batch = {k: torch.from_numpy(v[None]) for k, v in seen.items()}
        batch["is_first"] = torch.tensor([carry is None])
        action, carry = self.agent.act(batch, carry or self.agent.init(1), mode, self.generator)
        return action[0].numpy(), carry

    @torch.no_grad()
    def draw(self, carry: Carry, name: str | None = None) -> np.ndarray:
        """Decode the present: all pictures side by side (H,W,3) uint8, or one by name (H,W,C)."""
        with autocast(self.agent.device, self.agent.precision):
            feat = self.model.dynamics.features(select_prefix(carry, "state/")).unsqueeze(1)
            return self._pixels(feat, name)[0]

    @torch.no_grad()
    def imagine(self, carry: Carry, actions: np.ndarray, name: str | None = None) -> np.ndarray:
        """Imagine actions (H,A), choices one-hot, from a carry: pictures (H,H,W,3) uint8.

        Several pictures are joined side by side; `name` selects one.
        """
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
            return self._pixels(self.model.dynamics.features(states), name)

    def _pixels(self, feat: Tensor, name: str | None) -> np.ndarray:
        """Pictures (T,H,W,C) of features (1,T,F)."""
        pictures = self.model.decode(feat)
        if name is not None and name not in pictures:
            raise UsageError(f"this run sees no picture {name!r}, only {', '.join(pictures)}")
        shown = join_pictures(pictures) if name is None else pictures[name]
        return to_pixels(shown)[0].cpu().numpy()


def check_seen(observation: ObservationSpace, obs: Any) -> dict[str, np.ndarray]:
    """Observations as arrays by name, from a dict, a picture or a vector; UsageError if misshaped.

    Other keys of a dict are dropped.
    """
    if not isinstance(obs, dict):
        kind = observation.pictures if np.ndim(obs) == 3 else observation.vectors
        obs = {next(iter(kind), "image" if np.ndim(obs) == 3 else "vector"): obs}
    seen = {}
    for name, shape in observation.items():
        if np.shape(obs.get(name)) != shape:
            found = np.shape(obs[name]) if name in obs else None
            raise UsageError(f"this run sees {name} of shape {shape}, not {found}")
        seen[name] = np.asarray(obs[name])
        if name in observation.pictures and seen[name].dtype != np.uint8:
            raise UsageError(f"pictures are uint8, 0 to 255, and this one is {seen[name].dtype}")
    return seen
