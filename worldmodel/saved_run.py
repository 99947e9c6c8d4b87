"""`Run`: a saved run to act with and to imagine with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel import build, memory_estimate
from worldmodel.checkpoint import store, validate
from worldmodel.checkpoint.saved_spaces import read_spaces
from worldmodel.config import loading
from worldmodel.config.schema import (
    Config,
    learns_policy,
    plans_in_simulator,
    plans_with_critic,
    states_fact,
)
from worldmodel.errors import RunError, UsageError
from worldmodel.model.dynamics import Simulator
from worldmodel.model.given_reward import GivenReward, Reward
from worldmodel.model.heads import KnownHead
from worldmodel.model.mean_image import to_pixels
from worldmodel.packing import file_list
from worldmodel.packing.golden_output import check_golden
from worldmodel.packing.locate import locate_run
from worldmodel.policy.agent import Agent, Carry
from worldmodel.policy.learned_policy import LearnedPolicy
from worldmodel.registry import DYNAMICS, KNOWN_REWARDS
from worldmodel.rollout.montage import join_pictures
from worldmodel.run_directory import RunDir, locate_results
from worldmodel.spaces import ObservationSpace, add_prefix, select_prefix
from worldmodel.system import runtime
from worldmodel.system.runtime import autocast, make_generator

OVERRIDABLE = ("behavior", "planner", "goal", "guided")  # sections that may differ from training


class Run:
    """A trained agent, opened from its run directory without an environment."""

    def __init__(
        self,
        c: Config,
        path: Path,
        agent: Agent,
        observation: ObservationSpace,
        frames: int,
        policy: LearnedPolicy | None = None,
        other_task: str = "",
    ):
        self.observation_space, self.other_task = observation, other_task
        self.config, self.path, self.agent, self.frames, self.policy = (
            c,
            path,
            agent,
            frames,
            policy,
        )
        self.model, self.action_space = agent.model, agent.space
        self.generator = make_generator(c.run.seed, 8, device=agent.device.type)

    def apply_overrides(self, overrides: Sequence[tuple[str, str]] | Mapping[str, Any]) -> Run:
        """The same model with other keys of the OVERRIDABLE sections.

        They are a dict of values, or pairs (key, text).
        """
        if isinstance(overrides, Mapping):
            overrides = [(key, loading.format_value(v)) for key, v in overrides.items()]
        c = loading.apply_overrides(self.config, overrides, OVERRIDABLE)
        if learns_policy(c) and self.policy is None:
            why = self.lost_policy or "this run trained no actor and no critic"
            raise RunError(
                f"{why}: behavior.name can be random or mpc, the latter with planner.score reward "
                "and planner.proposals 0",
                2,
            )
        if self.policy is not None and not self.policy.has_critic and plans_with_critic(c):
            raise RunError("this run trained no critic: take planner.score reward", 2)
        agent = build.make_agent(c, self.model, self.action_space, self.agent.device, self.policy)
        return Run(
            c,
            self.path,
            agent,
            self.observation_space,
            self.frames,
            self.policy,
            self.other_task,
        )

    @property
    def lost_policy(self) -> str:
        """Why the policy that it may have trained cannot act; empty if it can."""
        reward = self.model.reward
        if isinstance(reward, GivenReward):
            return f"its actor and critic have learned another reward than {reward.name}"
        if self.other_task:
            return f"its actor and critic have learned another task than {self.other_task}"
        return ""

    @property
    def results(self) -> Path:
        """The folder of the results by its own task and reward, or by others."""
        reward = self.model.reward
        other = reward.name if isinstance(reward, GivenReward) else self.other_task
        return locate_results(self.path, other)

    def replace_reward(self, name: str, function: Reward) -> Run:
        """The run with its model's reward replaced by a function of what the model decodes.

        It plans for this reward, since its policy has learned another one.
        """
        if not self.model.dynamics.imagines:
            raise UsageError("--reward: this agent has no model to plan with")
        self.model.reward = GivenReward(name, self.model.decode_observations, function)
        return self._plan_alone(self.config)

    def replace_task(self, task: str) -> Run:
        """The run with new heads of reward and continuation, for another task of the same body.

        They are that task's equations if they are known and nothing is encoded; otherwise they are
        untrained. It plans, since its policy has learned the run's own task.
        """
        c, model = self.config, self.model
        if not model.dynamics.imagines or plans_in_simulator(c):
            raise UsageError(
                f"--env.task {task}: {self.path} has no model that another task could use "
                f"(model.dynamics {c.model.dynamics}); train it with --env.task {task}"
            )
        place = DYNAMICS[c.model.dynamics]
        raw = states_fact(place, "encodes_nothing") and not states_fact(place, "moves_pixels")
        if raw and task in KNOWN_REWARDS and c.env.repeat == 1:
            heads = {"reward_head": "known", "cont_head": "known"}
        else:
            learned = "gaussian" if c.model.reward_head == "known" else c.model.reward_head
            heads = {"reward_head": learned, "cont_head": "learned"}
        sections: Any = c
        env, keys = replace(c.env, task=task, kwargs={}), replace(sections.model, **heads)
        c = replace(c, env=env, model=keys)
        model.reward, model.cont = (
            head.to(self.agent.device) for head in build.make_heads(c, model.dynamics)
        )
        model.ends.fill_(isinstance(model.cont, KnownHead))
        return self._plan_alone(c, task)

    def _plan_alone(self, c: Config, other_task: str = "") -> Run:
        """The run without its policy, driven by its planner."""
        run = Run(
            c,
            self.path,
            self.agent,
            self.observation_space,
            self.frames,
            other_task=other_task,
        )
        plans = {"behavior.name": "mpc", "planner.score": "reward", "planner.proposals": 0}
        return run.apply_overrides(plans)

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.model.parameters()) / 1e6
        return (
            f"Run({str(self.path)!r}: {self.config.env.task}, {self.frames:,} frames, "
            f"{self.config.behavior.name}, {weights:.1f}M weights, {self.agent.device})"
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        device: str = "auto",
        make_simulator: Callable[[Config, Path], Simulator] | None = None,
    ) -> Run:
        """Open the newest sound checkpoint of a run directory, or of a packed run: a directory, a
        zip file or hf://user/repo; RunError or DataError if there is none.

        `make_simulator` makes the simulator of a run that plans in the true one.
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
        simulator = None
        if plans_in_simulator(c):
            if make_simulator is None:
                raise UsageError(
                    f"{path} plans in the true simulator of {c.env.task}, and none is given: use "
                    "./wm eval, or worldmodel.load with make_simulator"
                )
            simulator = make_simulator(c, run.path)
        target = runtime.pick_device(device)
        memory_estimate.check_weights(c, observation, space)
        with store.report_incompatible(saved.path):
            model = build.make_model(c, observation, space, simulator=simulator).to(target)
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
        self,
        obs: Any,
        carry: Carry | None = None,
        mode: str = "eval",
        episode_start: Any = None,
    ) -> tuple[np.ndarray, Carry]:
        """Choose an action (A,) for a dict of observations, or for the one picture or vector.

        A batch is a list, or has a leading axis: it gets actions (B,A). `carry` is None at the
        start of an episode; in a batch, `episode_start` (B,) marks the rows that start one.
        """
        batch, carry, is_batch = self._prepare(obs, carry, episode_start)
        action, carry = self.agent.act(batch, carry, mode, self.generator)
        return action.numpy() if is_batch else action[0].numpy(), carry

    @torch.no_grad()
    def observe(
        self,
        obs: Any,
        carry: Carry | None = None,
        action: Any = None,
        episode_start: Any = None,
    ) -> tuple[np.ndarray, Carry]:
        """The features (F,) of the latent after an observation, for a policy of your own.

        `action` is the environment's own that led to it. A batch gives (B,F), as in `act`.
        """
        batch, carry, is_batch = self._prepare(obs, carry, episode_start)
        if action is not None:
            given = np.asarray(action) if is_batch else np.asarray(action)[None]
            batch["prev_action"] = self.action_space.encode_actions(given)
        with autocast(self.agent.device, self.agent.precision):
            state, _ = self.agent.filter(batch, carry, self.generator)
            feat = self.model.dynamics.features(state).float().cpu().numpy()
        return feat if is_batch else feat[0], {**carry, **add_prefix(state, "state/")}

    def _prepare(
        self, obs: Any, carry: Carry | None, episode_start: Any
    ) -> tuple[dict[str, Tensor], Carry, bool]:
        """Observations as tensors with is_first, the carry, and whether they came as a batch."""
        seen, is_batch = check_observation(self.model.observation, obs)
        count = len(next(iter(seen.values())))
        is_first = np.ones(count, bool)
        if carry is None:
            carry = self.agent.init(count)
        else:
            is_first = np.zeros(count, bool) if episode_start is None else episode_start
        known, starts = len(carry["prev_action"]), np.atleast_1d(np.asarray(is_first, bool))
        if known != count or starts.shape != (count,):
            raise UsageError(
                f"{count} observations need a carry and starts of {count} rows, and these have "
                f"{known} and {len(starts)}"
            )
        batch = {k: torch.from_numpy(v) for k, v in seen.items()}
        return {**batch, "is_first": torch.from_numpy(starts)}, carry, is_batch

    def predict(
        self,
        observation: Any,
        state: Carry | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """Return actions of the environment's own space and the next state, as the models of
        stable-baselines3 do.

        `deterministic` takes the actor's mode, or what the planner chose; otherwise actions are
        chosen as while collecting.
        """
        mode = "greedy" if deterministic else "train"
        action, state = self.act(observation, state, mode, episode_start)
        return self.action_space.decode_actions(
            action
        ) if self.action_space.discrete else action, state

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


def check_observation(
    observation: ObservationSpace, obs: Any
) -> tuple[dict[str, np.ndarray], bool]:
    """Observations (B,...) by name, and whether they came as a batch; UsageError if misshaped.

    They are a dict, a picture or a vector, or several: a list, or with a leading axis. Other keys
    of a dict are dropped.
    """
    if isinstance(obs, list | tuple) and obs and isinstance(obs[0], dict):
        obs = {name: np.stack([one.get(name) for one in obs]) for name in observation}
    elif not isinstance(obs, dict):
        kind = observation.pictures if np.ndim(obs) >= 3 else observation.vectors
        obs = {next(iter(kind), "image" if np.ndim(obs) >= 3 else "vector"): obs}
    seen, leading = {}, set()
    for name, shape in observation.items():
        found = np.shape(obs[name]) if name in obs else None
        if found is None or found[-len(shape) :] != shape or len(found) > len(shape) + 1:
            raise UsageError(f"this run sees {name} of shape {shape}, not {found}")
        leading.add(found[: -len(shape)])
        is_picture = name in observation.pictures
        value = np.asarray(obs[name], None if is_picture else np.float32)
        if is_picture and value.dtype != np.uint8:
            raise UsageError(f"pictures are uint8, 0 to 255, and this one is {value.dtype}")
        seen[name] = np.ascontiguousarray(value.reshape(-1, *shape))
    if len(leading) != 1 or leading == {(0,)}:
        raise UsageError(f"observations of one batch have one size, and these have {leading}")
    return seen, leading != {()}
