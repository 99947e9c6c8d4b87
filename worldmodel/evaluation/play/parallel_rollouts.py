"""Parallel imagined rollouts of the same actions: one is shown, the spread is the uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.errors import UsageError
from worldmodel.evaluation.imagination.feature_points import choose_colours, join_points
from worldmodel.evaluation.quality.policies import BEHAVIOR_LABELS
from worldmodel.model.dynamics import select_members
from worldmodel.model.mean_image import to_pixels
from worldmodel.policy.agent import Agent
from worldmodel.policy.learned_policy import LearnedPolicy
from worldmodel.rollout.montage import join_pictures
from worldmodel.spaces import Columns, State, add_prefix, map_state
from worldmodel.system import runtime
from worldmodel.system.runtime import autocast

ROLLOUTS = 8


@dataclass
class Prediction:
    """What the model predicts at a step; the picture (H,W,3) uint8 joins several side by side.

    `spread` is the mean standard deviation over rollouts, of decoded pixels in [0, 1], or of
    features if the model cannot draw. `points` are where the encoder finds its feature points in
    the picture: shares x, y (N,2) of its width and height.
    """

    picture: np.ndarray | None
    reward: float
    cont: float
    value: float | None
    spread: float
    points: np.ndarray | None = None


class ParallelRollouts:
    """Imagined rollouts of one action sequence; every call gets a seed, so all is repeatable."""

    def __init__(
        self,
        agent: Agent,
        policy: LearnedPolicy | None,
        drivers: dict[str, Any],
        count: int = ROLLOUTS,
    ):
        self.agent, self.model, self.policy, self.count = agent, agent.model, policy, count
        self.drivers = drivers
        self.seen = list(self.model.observation)
        self.can_draw = self.model.can_draw
        counts = sorted(self.model.count_points().items())
        # Of each feature point, in the order of `find_points`; those of one picture differ.
        self.point_colours = [colour for _, n in counts for colour in choose_colours(n)]

    def observe(self, rows: Columns, seed: int) -> State:
        """Posterior states (K,...) after rows (T,...), of which the first starts an episode.

        Of an ensemble of transitions each rollout has one member, which imagines all its steps.
        """
        generator = self.make_generator(seed)
        rows = {k: rows[k] for k in [*self.seen, "prev_action"]}
        state = self.agent.observe_rows(rows, generator, self.count)
        return map_state(self.model.dynamics.keep_members(state, generator), torch.Tensor.float)

    @torch.no_grad()
    def imagine_step(self, state: State, action: np.ndarray, seed: int) -> State:
        """One step of every rollout with one action (A,)."""
        vector = torch.from_numpy(action)[None].expand(self.count, -1).to(self.agent.device)
        with autocast(self.agent.device, self.agent.precision):
            found = self.model.dynamics.imagine_step(state, vector, self.make_generator(seed))
        return map_state(found, torch.Tensor.float)

    @torch.no_grad()
    def observe_next(self, state: State, seen: Columns, action: np.ndarray, seed: int) -> State:
        """The posterior states (K,...) after an action (A,) that led to what is seen, by name."""
        vector = torch.from_numpy(action)[None].expand(self.count, -1)
        rows: dict[str, torch.Tensor] = {
            k: torch.from_numpy(seen[k])[None].expand(self.count, *seen[k].shape)
            for k in self.seen
        }
        obs = {**rows, "prev_action": vector, "is_first": torch.zeros(self.count).bool()}
        carry = {**add_prefix(state, "state/"), "prev_action": vector}
        with autocast(self.agent.device, self.agent.precision):
            found, _ = self.agent.filter(obs, carry, self.make_generator(seed))
        return map_state({**found, **select_members(state)}, torch.Tensor.float)

    @torch.no_grad()
    def predict(self, state: State) -> Prediction:
        with autocast(self.agent.device, self.agent.precision):
            feat = self.model.dynamics.features(state)
            reward, cont = (float(x) for x in self.model.predict_for_planning(feat[:1]))
            value = None
            if self.policy is not None and self.policy.has_critic:
                value = float(self.policy.value(feat[:1]))
            pictures, points = None, None
            if self.can_draw:
                decoded = self.model.decode(feat[None])
                pictures = join_pictures(decoded)[0].float().clamp(0, 1)
                if self.point_colours:
                    shown = {k: to_pixels(v[0, 0].float()) for k, v in decoded.items()}
                    points = self.find_points({k: v.cpu().numpy() for k, v in shown.items()})
        spread = float(
            (feat.float() if pictures is None else pictures).std(0, unbiased=False).mean()
        )
        return Prediction(
            None if pictures is None else to_pixels(pictures[0]).cpu().numpy(),
            reward,
            cont,
            value,
            spread,
            points,
        )

    def find_points(self, pictures: Columns) -> np.ndarray | None:
        """Where feature points are in the picture that joins those of a step (H,W,C) by name:
        shares x, y (N,2) of its width and height; None for encoders without points.
        """
        found = self.agent.find_points({k: v[None] for k, v in pictures.items()})
        if not found:
            return None
        return join_points(found, {k: v.shape for k, v in pictures.items()})[0]

    @torch.no_grad()
    def choose_action(
        self, name: str, state: State, carry: State | None, seed: int
    ) -> tuple[np.ndarray, State]:
        """A driver's action (A,) in the first rollout, and its carry; None starts anew."""
        return self.act(self.drivers[name], BEHAVIOR_LABELS[name], state, carry, seed)

    @torch.no_grad()
    def act(
        self, behavior: Any, label: str, state: State, carry: State | None, seed: int
    ) -> tuple[np.ndarray, State]:
        """The same of a behavior that is no driver of its own."""
        fresh = torch.tensor([carry is None], device=self.agent.device)
        first = map_state(state, lambda v: v[:1])
        with autocast(self.agent.device, self.agent.precision):
            action, carry = behavior.act(
                first, carry or behavior.init(1), fresh, "eval", self.make_generator(seed)
            )
        vector = action[0].float().cpu().numpy()
        if not np.isfinite(vector).all():
            raise UsageError(f"{label} chose an action that is not finite; nothing was done")
        return vector, carry

    def make_generator(self, seed: int) -> torch.Generator:
        return runtime.make_generator(seed, device=self.agent.device.type)
