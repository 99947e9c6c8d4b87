"""Linear ridge regression from features to the simulator's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from worldmodel.rollout.collector import Rollout
from worldmodel.rollout.player import Player
from worldmodel.spaces import find_vectors, select_prefix

T = TypeVar("T")
RIDGE = 1e-3  # penalty per row, on features of unit variance
RIDGES = tuple(10.0**k for k in range(-4, 3))
FOLDS = 4  # of the cross-validation that chooses among RIDGES


@dataclass(frozen=True)
class LinearProbe:
    """A linear map from features (N,F) to states (N,n), fitted in closed form."""

    middle: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    mean: np.ndarray

    @classmethod
    def fit(
        cls, feat: np.ndarray, state: np.ndarray, ridge: float | np.ndarray = RIDGE
    ) -> LinearProbe:
        """Fit with one penalty, or with one per coordinate (n,)."""
        return cls.fit_penalties(feat, state, [ridge])[0]

    @classmethod
    def fit_penalties(
        cls, feat: np.ndarray, state: np.ndarray, ridges: Sequence[float | np.ndarray]
    ) -> list[LinearProbe]:
        """Fit once per penalty, from a single eigendecomposition: of x'x, or of the smaller xx'
        where features are more than rows, as those of a picture may be.
        """
        middle, scale, mean = feat.mean(0), feat.std(0) + 1e-8, state.mean(0)
        x, y = (feat - middle) / scale, state - mean
        is_wide = x.shape[1] > len(x)
        sizes, axes = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
        # (x'x + r)^-1 x'y = x'(xx' + r)^-1 y
        along = axes.T @ (y if is_wide else x.T @ y)
        back = x.T @ axes if is_wide else axes
        shrunk = (along / (sizes.clip(0)[:, None] + ridge * len(x)) for ridge in ridges)
        return [cls(middle, scale, back @ weights, mean) for weights in shrunk]

    @classmethod
    def fit_cross_validated(
        cls, feats: Sequence[np.ndarray], states: Sequence[np.ndarray]
    ) -> LinearProbe:
        """Fit with the best penalty per coordinate in a cross-validation over episodes.

        Where all episodes are similar, as those of an agent that balances, a weak penalty would
        fit rounding noise of nearly constant features. A single episode gets the default penalty.
        """
        folds = min(FOLDS, len(feats))
        ridge: float | np.ndarray = RIDGE
        if folds > 1:
            errors = np.zeros((len(RIDGES), states[0].shape[1]))
            for fold in range(folds):
                x, y = (
                    np.concatenate([e for i, e in enumerate(p) if i % folds != fold])
                    for p in (feats, states)
                )
                held, true = (np.concatenate(part[fold::folds]) for part in (feats, states))
                for row, probe in zip(errors, cls.fit_penalties(x, y, RIDGES), strict=True):
                    row += np.square(true - probe.predict(held)).sum(0)
            ridge = np.array(RIDGES)[errors.argmin(0)]
        return cls.fit(np.concatenate(feats), np.concatenate(states), ridge)

    def predict(self, feat: np.ndarray) -> np.ndarray:
        """Predicted states (N,n)."""
        return self.mean + (feat - self.middle) / self.scale @ self.weights

    def r2(
        self, feat: np.ndarray, state: np.ndarray, among: np.ndarray | None = None
    ) -> np.ndarray:
        """R^2 by coordinate (n,), relative to the variance of these states or of `among`.

        1 is perfect, 0 no better than the mean; NaN for a constant coordinate.
        """
        spread = (state if among is None else among).var(0)
        error = np.square(state - self.predict(feat)).mean(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 1e-12, 1 - error / spread, np.nan)


def state_r2(
    feat: np.ndarray,
    state: np.ndarray,
    held_feat: np.ndarray,
    held_state: np.ndarray,
    ridge: float = RIDGE,
) -> np.ndarray:
    """R^2 by coordinate (n,) on held-out steps."""
    return LinearProbe.fit(feat, state, ridge).r2(held_feat, held_state)


def collect_features(
    rollout: Rollout,
    player: Player,
    episodes: int,
    on_episode: Callable[[int], None] = lambda done: None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Play whole episodes; return features (T,F) and simulator states (T,n) of each."""
    dynamics = player.agent.model.dynamics
    feats: list[list[np.ndarray]] = [[]]
    states: list[list[np.ndarray]] = [[]]
    while True:
        row = rollout.step(player)[0]
        feat = dynamics.features(select_prefix(player.carry, "state/"))[0]
        feats[-1].append(feat.float().cpu().numpy())
        vectors = find_vectors({k: v for k, v in row.items() if isinstance(v, np.ndarray)})
        states[-1].append(np.concatenate(list(vectors.values())))
        if row["is_last"]:
            on_episode(len(feats))
            if len(feats) == episodes:
                return [np.stack(f).astype(np.float64) for f in feats], [
                    np.stack(s).astype(np.float64) for s in states
                ]
            feats.append([])
            states.append([])


def measure_held_out_r2(feats: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> np.ndarray:
    """R^2 (n,) on every third episode, fitted on the others."""
    (x, held_x), (y, held_y) = split_episodes(feats), split_episodes(states)
    return LinearProbe.fit_cross_validated(x, y).r2(np.concatenate(held_x), np.concatenate(held_y))


def split_episodes(episodes: Sequence[T]) -> tuple[list[T], list[T]]:
    """Split into episodes to fit on and every third, which is held out."""
    held = [e for i, e in enumerate(episodes) if i % 3 == 2]
    return [e for i, e in enumerate(episodes) if i % 3 != 2], held


def measure_by_horizon(
    feats: Sequence[np.ndarray],
    states: Sequence[np.ndarray],
    tables: Sequence[dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """R^2 of one probe on held-out posteriors (n,) and on imagined features (H,n).

    The arguments have one entry per episode: features (T,F), states (T,n) and the tables of
    `measure_windows`. `copy` predicts from the last seen posterior. All errors are relative to the
    states' variance over whole held-out episodes.
    """
    fit, held = split_episodes(list(zip(feats, states, tables, strict=True)))
    probe = LinearProbe.fit_cross_validated([f for f, _, _ in fit], [s for _, s, _ in fit])
    among = np.concatenate([s for _, s, _ in held])
    found = {"posterior": probe.r2(np.concatenate([f for f, _, _ in held]), among)}
    state = np.concatenate([t["state"] for _, _, t in held])
    there = np.isfinite(state).all(-1)
    reach = int(there.any(0).sum())
    for name, key in (("open_loop", "feat"), ("copy", "feat_copy")):
        feat = np.concatenate([t[key] for _, _, t in held]).astype(np.float64)
        feat = np.broadcast_to(feat, (*there.shape, feat.shape[-1]))
        rows = [probe.r2(feat[there[:, h], h], state[there[:, h], h], among) for h in range(reach)]
        found[name] = np.stack(rows)
    return found
