"""A trained agent, measured through the interface of an evaluated model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.policy.agent import Agent
from worldmodel.rollout.montage import join_pictures
from worldmodel.spaces import Columns, State, add_prefix, map_state
from worldmodel.system.runtime import autocast, make_generator, mix_seeds


class EvaluatedAgent:
    """An agent as an `EvaluatedModel`; equal seeds and calls give equal results."""

    def __init__(self, agent: Agent, seed: int):
        self.agent, self.model = agent, agent.model
        self.seen = list(self.model.observation)
        self.can_draw = self.model.can_draw
        self.seed, self.generator = seed, make_generator(seed, 11, device=agent.device.type)

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
            if self.model.dynamics.smooths:  # no rollout starts from what was only seen later
                post = self.model.infer_states(batch)
                prior = self.model.dynamics.predict_latent(post)
            else:
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
        return self._predict(state)[0]

    def cont(self, state: State) -> Tensor:
        return self._predict(state)[1]

    @torch.no_grad()
    def _predict(self, state: State) -> list[Tensor]:
        with autocast(self.agent.device, self.agent.precision):
            return [
                x.float().cpu()
                for x in self.model.predict_for_planning(self.model.dynamics.features(state))
            ]

    def feat(self, state: State) -> Tensor:
        return self.model.dynamics.expected_features(state).float().cpu()

    def kl(self, post: State, prior: State) -> Tensor:
        dynamics = self.model.dynamics
        return dynamics.kl(dynamics.distribution(post), prior).cpu()

    def centre(self, posts: State) -> State:
        return self.model.dynamics.centre(posts)
