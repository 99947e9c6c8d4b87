"""What a representation knows: linear ridge regression from features to the simulator's true state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from worldmodel.agent import part
from worldmodel.player import Player
from worldmodel.rollout import Rollout

T = TypeVar("T")
RIDGE = 1e-3  # penalty per row, on features of unit variance


@dataclass(frozen=True)
class Readout:
    """The closed-form linear fit of states (N,n) to features (N,F)."""

    middle: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    mean: np.ndarray

    @classmethod
    def fit(cls, feat: np.ndarray, state: np.ndarray, ridge: float = RIDGE) -> Readout:
        middle, scale, mean = feat.mean(0), feat.std(0) + 1e-8, state.mean(0)
        x = (feat - middle) / scale
        weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ (state - mean))
        return cls(middle, scale, weights, mean)

    def r2(self, feat: np.ndarray, state: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """R^2 by coordinate (n,): what is left of the variance of states, of these or of others `among` whom they are.

        1 is known exactly and linearly, 0 no better than the mean; NaN where the states never change.
        """
        spread = (state if among is None else among).var(0)
        error = np.square(state - self.mean - (feat - self.middle) / self.scale @ self.weights).mean(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 1e-12, 1 - error / spread, np.nan)


def state_r2(
    feat: np.ndarray, state: np.ndarray, held_feat: np.ndarray, held_state: np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
    """R^2 by coordinate (n,) on held-out steps, of the fit to others."""
    return Readout.fit(feat, state, ridge).r2(held_feat, held_state)


def gather(
    rollout: Rollout, player: Player, episodes: int, on_episode: Callable[[int], None] = lambda done: None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features (T,F) and true states (T,n) of whole episodes of the first environment, whose rows hold the state."""
    rssm = player.agent.model.rssm
    feats: list[list[np.ndarray]] = [[]]
    states: list[list[np.ndarray]] = [[]]
    while True:
        row = rollout.step(player)[0]
        feats[-1].append(rssm.feat(part(player.carry, "state/"))[0].float().cpu().numpy())
        states[-1].append(row["vector"])
        if row["is_last"]:
            on_episode(len(feats))
            if len(feats) == episodes:
                return [np.stack(f).astype(np.float64) for f in feats], [np.stack(s).astype(np.float64) for s in states]
            feats.append([])
            states.append([])


def held_out_r2(feats: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> np.ndarray:
    """R^2 (n,) on every third episode, fitted on the others."""
    x, y = ([np.concatenate(part) for part in split(parts)] for parts in (feats, states))
    return state_r2(x[0], y[0], x[1], y[1])


def split(episodes: Sequence[T]) -> tuple[list[T], list[T]]:
    """Those to fit on, and every third, which is held out."""
    held = [e for i, e in enumerate(episodes) if i % 3 == 2]
    return [e for i, e in enumerate(episodes) if i % 3 != 2], held


def by_horizon(
    feats: Sequence[np.ndarray], states: Sequence[np.ndarray], tables: Sequence[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """One read-out, fitted to posteriors, of held-out posteriors (n,) and of what was dreamt on from them (H,n).

    By episode: features (T,F) and states (T,n), and the windows of `open_loop`. `copy` reads the last seen posterior
    instead of the dream. All errors are in units of the states' variance over whole held-out episodes.
    """
    fit, held = split(list(zip(feats, states, tables, strict=True)))
    readout = Readout.fit(np.concatenate([f for f, _, _ in fit]), np.concatenate([s for _, s, _ in fit]))
    among = np.concatenate([s for _, s, _ in held])
    found = {"posterior": readout.r2(np.concatenate([f for f, _, _ in held]), among)}
    state = np.concatenate([t["state"] for _, _, t in held])
    there = np.isfinite(state).all(-1)
    reach = int(there.any(0).sum())
    for name, key in (("open_loop", "feat"), ("copy", "feat_copy")):
        feat = np.concatenate([t[key] for _, _, t in held]).astype(np.float64)
        feat = np.broadcast_to(feat, (*there.shape, feat.shape[-1]))
        rows = [readout.r2(feat[there[:, h], h], state[there[:, h], h], among) for h in range(reach)]
        found[name] = np.stack(rows)
    return found
