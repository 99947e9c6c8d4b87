"""What a representation knows: linear ridge regression from features to the simulator's true state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldmodel.agent import part
from worldmodel.player import Player
from worldmodel.rollout import Rollout

RIDGE = 1e-3  # penalty per row, on features of unit variance


def state_r2(
    feat: np.ndarray, state: np.ndarray, held_feat: np.ndarray, held_state: np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
    """R^2 by coordinate (n,) on held-out steps, of the closed-form fit of states (N,n) to features (N,F).

    1 is known exactly and linearly, 0 no better than the mean of the held-out steps; NaN where those never change.
    """
    middle, scale = feat.mean(0), feat.std(0) + 1e-8
    x, held = (feat - middle) / scale, (held_feat - middle) / scale
    weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ (state - state.mean(0)))
    error = np.square(held_state - state.mean(0) - held @ weights).sum(0)
    spread = np.square(held_state - held_state.mean(0)).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-12 * len(held_state), 1 - error / spread, np.nan)


def gather(rollout: Rollout, player: Player, episodes: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features (T,F) and true states (T,n) of whole episodes of the first environment, whose rows hold the state."""
    rssm = player.agent.model.rssm
    feats: list[list[np.ndarray]] = [[]]
    states: list[list[np.ndarray]] = [[]]
    while True:
        row = rollout.step(player)[0]
        feats[-1].append(rssm.feat(part(player.carry, "state/"))[0].float().cpu().numpy())
        states[-1].append(row["vector"])
        if row["is_last"]:
            if len(feats) == episodes:
                return [np.stack(f).astype(np.float64) for f in feats], [np.stack(s).astype(np.float64) for s in states]
            feats.append([])
            states.append([])


def held_out_r2(feats: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> np.ndarray:
    """R^2 (n,) on every third episode, fitted on the others."""
    x, y = ([np.concatenate([e for i, e in enumerate(part) if (i % 3 == 2) == held]) for held in (False, True)]
            for part in (feats, states))  # fmt: skip
    return state_r2(x[0], y[0], x[1], y[1])
