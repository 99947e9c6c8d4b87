"""The interface through which evaluation uses a model; tests implement it by a simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldmodel.config.schema import plans_to_goal
from worldmodel.errors import RunError
from worldmodel.rollout.montage import join_pictures
from worldmodel.saved_run import Run
from worldmodel.spaces import State, add_prefix, count_states, map_state
from worldmodel.system.runtime import autocast, make_generator, mix_seeds

Columns = dict[str, np.ndarray]  # an episode's rows, key by key (T,...)
Planner = Callable[[State], Tensor]  # states (N,...) -> plans (N,P,A)


class EvaluatedModel(Protocol):
    """A world model in evaluation; states are opaque, all results are on the CPU in fp32."""

    can_draw: bool  # whether `decode` works

    def observe(self, episode: Columns) -> tuple[State, State]:
        """Posterior and prior states (T,...) of an episode's rows."""
        ...

    def reseed(self, number: int) -> None:
        """Seed the random draws that follow."""
        ...

    def observe_step(self, state: State, row: dict[str, Any]) -> State:
        """The posterior after one more row: states (1,...)."""
        ...

    def imagine(self, state: State, actions: Tensor) -> State:
        """Sample one open-loop rollout: states (N,...), actions (N,H,A) -> (N,H,...)."""
        ...

    def decode(self, state: State) -> Tensor:
        """Mean pictures (...,H,W,3) in [0, 1], side by side where the model sees several."""
        ...

    def reward(self, state: State) -> Tensor:
        """Expected reward on arrival (...)."""
        ...

    def cont(self, state: State) -> Tensor:
        """Probability that the episode continues after arrival (...)."""
        ...

    def feat(self, state: State) -> Tensor:
        """Features (...,F) without sampling noise."""
        ...

    def kl(self, post: State, prior: State) -> Tensor:
        """KL divergence of posterior from prior, in nats (...)."""
        ...

    def centre(self, posts: State) -> State:
        """The constant prior with the smallest mean `kl` to posteriors (N,...)."""
        ...


class EvaluatedRun:
    """A saved run as an `EvaluatedModel`; equal seeds and calls give equal results."""

    def __init__(self, run: Run, seed: int):
        self.model, self.agent = run.model, run.agent
        self.seen = list(run.observation_space)
        self.can_draw = self.model.can_draw
        self.seed, self.generator = seed, make_generator(seed, 11, device=run.agent.device.type)

    def reseed(self, number: int) -> None:
        self.generator.manual_seed(mix_seeds(self.seed, 11, number))

    @torch.no_grad()
    def observe(self, episode: Columns) -> tuple[State, State]:
        keys = [*self.seen, "prev_action", "is_first"]
        batch = {
            k: torch.from_numpy(np.ascontiguousarray(episode[k]))[None].to(self.agent.device)
            for k in keys
        }
        with torch.random.fork_rng(devices=[]), autocast(self.agent.device, self.agent.precision):
            # Filtering a whole sequence uses torch's global generator.
            torch.manual_seed(
                int(torch.randint(2**62, (), generator=self.generator, device=self.agent.device))
            )
            _, post, prior = self.model.observe(batch)
        return map_state(post, lambda v: v[0].float()), map_state(prior, lambda v: v[0].float())

    @torch.no_grad()
    def observe_step(self, state: State, row: dict[str, Any]) -> State:
        obs = {k: torch.as_tensor(row[k])[None] for k in [*self.seen, "prev_action", "is_first"]}
        carry = add_prefix(state, "state/")
        carry["prev_action"] = obs["prev_action"]
        with autocast(self.agent.device, self.agent.precision):
            found, _ = self.agent.filter(obs, carry, self.generator)
        return map_state(found, Tensor.float)

    @torch.no_grad()
    def imagine(self, state: State, actions: Tensor) -> State:
        dynamics = self.model.dynamics
        with autocast(self.agent.device, self.agent.precision):
            found = dynamics.imagine(state, actions.to(self.agent.device), self.generator)
            return map_state({**found, **dynamics.predict_latent(found)}, Tensor.float)

    @torch.no_grad()
    def decode(self, state: State) -> Tensor:
        with autocast(self.agent.device, self.agent.precision):
            feat = self.model.dynamics.features(state)
            pictures = join_pictures(self.model.decode(feat.reshape(1, -1, feat.shape[-1])))[0]
        return pictures.float().clamp(0, 1).unflatten(0, feat.shape[:-1]).cpu()

    def reward(self, state: State) -> Tensor:
        return self._outlook(state)[0]

    def cont(self, state: State) -> Tensor:
        return self._outlook(state)[1]

    @torch.no_grad()
    def _outlook(self, state: State) -> list[Tensor]:
        with autocast(self.agent.device, self.agent.precision):
            return [
                x.float().cpu() for x in self.model.outlook(self.model.dynamics.features(state))
            ]

    def feat(self, state: State) -> Tensor:
        return self.model.dynamics.expected_features(state).float().cpu()

    def kl(self, post: State, prior: State) -> Tensor:
        return self.model.dynamics.kl(post, prior).cpu()

    def centre(self, posts: State) -> State:
        return self.model.dynamics.centre(posts)


def make_planners(run: Run, seed: int) -> tuple[dict[str, Planner], int, list[str]]:
    """The run's actor and planner as functions of states, their horizon, and what is missing."""
    generator = make_generator(seed, 12, device=run.agent.device.type)
    length, left_out = run.config.planner.horizon, []
    found: dict[str, Planner] = {}
    if run.policy is not None:
        policy = run.policy
        found["actor"] = _wrap_planner(
            run, lambda state: policy.plans(run.model, state, 1, length, generator)[:, 0]
        )
    if plans_to_goal(run.config):
        left_out.append("this run plans to a goal instead of reward: no planner is measured")
        return found, length, left_out
    try:
        behavior = run.apply_overrides([("behavior.name", "mpc")]).agent.behavior
    except RunError:
        left_out.append(
            "this run's planner needs an actor or a critic, and the run has none: no planner is "
            "measured"
        )
        return found, length, left_out

    def search(state: State) -> Tensor:
        count = count_states(state)
        fresh = torch.ones(count, dtype=torch.bool, device=run.agent.device)
        return behavior.plan(state, behavior.init(count), fresh, generator)

    found["planner"] = _wrap_planner(run, search)
    return found, length, left_out


def _wrap_planner(run: Run, plan: Planner) -> Planner:
    """Plan in the precision in which the run acts, without gradients."""

    @torch.no_grad()
    def wrapped(state: State) -> Tensor:
        with autocast(run.agent.device, run.agent.precision):
            return plan(state).float().cpu()

    return wrapped
