"""Open-loop rollouts beside the truth: a few context frames, then the model's predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.model.mean_image import to_pixels
from worldmodel.policy.agent import Agent
from worldmodel.rollout.montage import join_pictures, join_row
from worldmodel.spaces import Row, add_prefix, join_states
from worldmodel.system.runtime import autocast

GAP = 2  # pixels between the steps of a strip that shows several pictures of each


@dataclass
class OpenLoopRollout:
    """Pictures (T,H,W,3) uint8 and rewards (T,) of truth and model; `context` rows were seen.

    A picture shows everything that the model sees at a step, `cameras` pictures in a row.
    """

    truth: np.ndarray
    model: np.ndarray
    reward: np.ndarray
    predicted_reward: np.ndarray
    context: int
    cameras: int = 1

    @property
    def error(self) -> np.ndarray:
        """Signed difference as a picture, grey where truth and model agree."""
        signed = self.model.astype(np.int16) - self.truth.astype(np.int16)
        return (128 + signed // 2).clip(0, 255).astype(np.uint8)

    def make_video(self) -> np.ndarray:
        """Truth, model and error side by side (T,H,3W,3); a bar on top marks the context."""
        parts = [self._separate(x) for x in (self.truth, self.model, self.error)]
        frames = np.concatenate(parts, 2)
        frames[: self.context, :2] = (90, 200, 120)
        frames[self.context :, :2] = (230, 120, 60)
        return frames

    def make_strip(self, columns: int = 12) -> np.ndarray:
        """Rows truth, model, error over time (3H, columns*W, 3), steps apart if W is several
        pictures.
        """
        picks = (
            np.linspace(0, len(self.truth) - 1, min(columns, len(self.truth))).round().astype(int)
        )
        marked = self.model.copy()
        marked[: self.context, :2] = (90, 200, 120)
        marked[self.context :, :2] = (230, 120, 60)
        shown = [self._separate(x[picks]) for x in (self.truth, marked, self.error)]
        return np.concatenate([np.concatenate(list(x), 1) for x in shown], 0)

    def _separate(self, pictures: np.ndarray) -> np.ndarray:
        """Add a white edge on the right, which tells steps of several pictures apart."""
        room = [(0, 0), (0, 0), (0, GAP if self.cameras > 1 else 0), (0, 0)]
        return np.pad(pictures, room, constant_values=255)

    def measure_mse(self, instead: np.ndarray | None = None) -> np.ndarray:
        """Mean squared error (T,) of the model's pictures, or of others, with pixels in [0,1]."""
        predicted = self.model if instead is None else instead
        gap = (predicted.astype(np.float32) - self.truth.astype(np.float32)) / 255
        return np.square(gap).mean((1, 2, 3))


@torch.no_grad()
def imagine_open_loop(
    agent: Agent, rows: list[Row], context: int, generator: torch.Generator
) -> OpenLoopRollout:
    """Filter `context` rows of one episode, then predict the rest from its actions alone."""
    model = agent.model
    keys = [*model.observation, "prev_action", "is_first"]
    carry = agent.init(1)
    seen = []
    with autocast(agent.device, agent.precision):
        for row in rows[:context]:
            obs = {k: torch.from_numpy(np.asarray(row[k])[None]) for k in keys}
            state, _ = agent.filter(obs, carry, generator)
            carry = {**carry, **add_prefix(state, "state/")}
            seen.append(state)
        actions = torch.from_numpy(np.stack([r["prev_action"] for r in rows[context:]]))[None].to(
            agent.device
        )
        future = model.dynamics.imagine(seen[-1], actions, generator)
        past = join_states(seen, lambda leaves: torch.stack(leaves, 1))
        states = join_states([past, future], lambda leaves: torch.cat(leaves, 1))
        feat = model.dynamics.features(states)
        pictures = to_pixels(join_pictures(model.decode(feat)))[0]
        reward, _ = model.predict(feat)
    truth = join_row({k: np.stack([r[k] for r in rows]) for k in model.observation.pictures})
    assert truth is not None
    real = np.array([r["reward"] for r in rows], np.float32)
    return OpenLoopRollout(
        truth,
        pictures.cpu().numpy(),
        real,
        reward[0].float().cpu().numpy(),
        context,
        len(model.observation.pictures),
    )
