"""A model as evaluation sees it: what it believes, dreams, draws and predicts. Any simulator can
be wrapped as one.
"""

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
    """States have leaves (...,X) and whatever else `kl` compares; all answers are on the CPU in
    fp32.
    """

    can_draw: bool  # whether `decode` can be asked

    def observe(self, episode: Columns) -> tuple[State, State]:
        """What is believed once each row (T,...) is seen, and what was expected just before."""
        ...

    def reseed(self, number: int) -> None:
        """Draw from here on what was drawn after this number was given before."""
        ...

    def observe_step(self, state: State, row: dict[str, Any]) -> State:
        """What is believed once the next row is seen too: states (1,...)."""
        ...

    def imagine(self, state: State, actions: Tensor) -> State:
        """Open loop, one draw: states (N,...), actions (N,H,A) -> (N,H,...)."""
        ...

    def decode(self, state: State) -> Tensor:
        """Mean pictures (...,H,W,3) in [0, 1], side by side where the model sees several."""
        ...

    def reward(self, state: State) -> Tensor:
        """Expected reward on arrival (...)."""
        ...

    def cont(self, state: State) -> Tensor:
        """Probability of going on after arrival (...)."""
        ...

    def feat(self, state: State) -> Tensor:
        """Features (...,F), free of the noise of a draw."""
        ...

    def kl(self, post: State, prior: State) -> Tensor:
        """How far a belief is from an expectation, in nats (...)."""
        ...

    def centre(self, posts: State) -> State:
        """The one expectation, of no dynamics at all, to which the mean `kl` of beliefs (N,...) is
        least.
        """
        ...


class EvaluatedRun:
    """A saved run as an `Opened`; the same seed gives the same answers to the same questions."""

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
            # Whole sequences are filtered with torch's own random numbers.
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
    """The actor's and the planner's ways to make plans, how long those are, and what is missing, a
    line each.
    """
    generator = make_generator(seed, 12, device=run.agent.device.type)
    length, left_out = run.config.planner.horizon, []
    found: dict[str, Planner] = {}
    if run.policy is not None:
        policy = run.policy
        found["actor"] = _wrap_planner(
            run, lambda state: policy.plans(run.model, state, 1, length, generator)[:, 0]
        )
    if plans_to_goal(run.config):
        left_out.append("plans towards a goal are not plans for reward: no planner is measured")
        return found, length, left_out
    try:
        behavior = run.apply_overrides([("behavior.name", "mpc")]).agent.behavior
    except RunError:
        left_out.append(
            "the planner of this run needs the actor or the critic that it lacks: no planner is "
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
    """In the precision the run acts in, without gradients."""

    @torch.no_grad()
    def wrapped(state: State) -> Tensor:
        with autocast(run.agent.device, run.agent.precision):
            return plan(state).float().cpu()

    return wrapped
