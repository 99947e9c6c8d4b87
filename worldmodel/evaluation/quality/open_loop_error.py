"""Open-loop errors of pictures, rewards and continuation (Brier), beside two baselines.

`copy` repeats the last seen frame, reward and latent. `mean` always predicts the mean of the
measured episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.evaluated_model import EvaluatedModel
from worldmodel.evaluation.quality.image_metrics import psnr, squared_error, ssim
from worldmodel.evaluation.quality.prediction_metrics import (
    brier_score,
    compute_calibration_error,
    compute_reliability,
    pearson,
)
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.spaces import State, select_states

WINDOWS = 8  # rollouts from an episode
MEASURED_KEYS = ("prev_action", "reward", "is_terminal")
# (N,H) by name, NaN after an episode's end; features, states (N,H,...); feat_copy (N,1,F)
Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class MeanBaseline:
    """The mean picture, reward and continuation: the best constant predictions."""

    picture: Tensor | None
    reward: float
    cont: float

    @classmethod
    def fit(cls, episodes: Sequence[RecordedEpisode]) -> MeanBaseline:
        columns = {k: [e.columns[k][1:] for e in episodes] for k in ("reward", "is_terminal")}
        pictures = [e.pictures for e in episodes if e.pictures is not None]
        sums = [p.sum(0, dtype=np.float64) for p in pictures]
        count = sum(len(p) for p in pictures)
        mean = torch.from_numpy(sum(sums) / count / 255).float() if count else None
        rewards, ends = (
            np.concatenate(columns[k]).astype(np.float64) for k in ("reward", "is_terminal")
        )
        return cls(mean, float(rewards.mean()), float(1 - ends.mean()))


def choose_starts(episode: RecordedEpisode, context: int, length: int) -> np.ndarray:
    """Steps to start rollouts from, at equal distances.

    They reach the end of the episode if it terminates, and otherwise leave room for whole windows.
    In a short episode they reach its middle: then fewer windows cover far horizons.
    """
    first, last = context - 1, len(episode) - 2
    if not episode.columns["is_terminal"].any():
        last = min(last, max((first + last) // 2, len(episode) - 1 - length))
    return (
        np.unique(np.linspace(first, last, WINDOWS).round().astype(int))
        if last >= first
        else np.empty(0, int)
    )


def measure_windows(
    model: EvaluatedModel,
    episode: RecordedEpisode,
    post: State,
    context: int,
    length: int,
    baseline: MeanBaseline,
) -> Table | None:
    """All measures of one episode by window and horizon; None if it is too short."""
    starts = choose_starts(episode, context, length)
    if not len(starts):
        return None
    steps = starts[:, None] + 1 + np.arange(length)
    inside, at = steps < len(episode), np.minimum(steps, len(episode) - 1)
    rows = {k: v[at] for k, v in episode.columns.items() if k in MEASURED_KEYS}
    begin, real = select_states(post, starts), select_states(post, at)
    still = {k: v.unsqueeze(1) for k, v in begin.items()}
    rollout = model.imagine(begin, torch.from_numpy(rows["prev_action"]))
    found: dict[str, Any] = {
        "kl": model.kl(real, rollout),
        "kl_copy": model.kl(real, still),
        "predicted_reward": model.reward(rollout),
        "predicted_cont": model.cont(rollout),
        "reward": rows["reward"],
        "cont": ~rows["is_terminal"],
        "copied_reward": episode.columns["reward"][starts][:, None],
    }
    if episode.state is not None:
        found["state"] = episode.state[at]
    if model.can_draw:
        assert baseline.picture is not None and episode.pictures is not None
        last = _to_floats(episode.pictures[starts])[:, None]
        predictions = {"model": model.decode(rollout), "copy": last, "mean": baseline.picture}
        found |= _picture_errors(predictions, _to_floats(episode.pictures[at]))
    table = {k: _mask_missing(np.asarray(v, np.float64), inside) for k, v in found.items()}
    # Features are large: keep them in fp32, and those of the baseline only once.
    return table | {
        "feat": _mask_missing(model.feat(rollout).numpy(), inside),
        "feat_copy": model.feat(still).numpy(),
    }


def add_centre_kl(
    model: EvaluatedModel,
    episodes: Sequence[RecordedEpisode],
    posteriors: Sequence[State],
    tables: Sequence[Table | None],
    context: int,
) -> None:
    """Add to every table the KL from the posteriors to their centre, by window and horizon."""
    centre = model.centre({k: torch.cat([b[k] for b in posteriors]) for k in posteriors[0]})
    for episode, posterior, table in zip(episodes, posteriors, tables, strict=True):
        if table is not None:
            inside = np.isfinite(table["reward"])
            length = inside.shape[1]
            steps = choose_starts(episode, context, length)[:, None] + 1 + np.arange(length)
            far = np.asarray(model.kl(posterior, centre), np.float64)
            table["kl_mean"] = _mask_missing(far[np.minimum(steps, len(episode) - 1)], inside)


def _to_floats(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).float() / 255


def _picture_errors(predictions: dict[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, prediction in predictions.items():
        full = prediction.expand_as(truth)
        error = squared_error(full, truth)
        # One window at a time, because SSIM needs ten times a picture's memory.
        similarity = torch.stack([ssim(*pair) for pair in zip(full, truth, strict=True)])
        found |= {f"mse/{name}": error, f"ssim/{name}": similarity}
    return found


def _mask_missing(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Broadcast (N,H or 1,...) to (N,H,...), with NaN after an episode's end."""
    values = np.broadcast_to(values, (*inside.shape, *values.shape[2:]))
    return np.where(inside.reshape(*inside.shape, *[1] * (values.ndim - 2)), values, np.nan)


def join_tables(tables: Sequence[Table]) -> Table:
    """Concatenate the windows of several episodes, up to the longest horizon of any."""
    whole = {k: np.concatenate([t[k] for t in tables]) for k in tables[0]}
    reach = int(np.isfinite(whole["reward"]).any(0).sum())
    return {k: v[:, :reach] for k, v in whole.items()}


def compute_curves(table: Table, baseline: MeanBaseline, closed: float) -> dict[str, Any]:
    """The results by horizon (H,); `closed` is the mean KL in closed loop."""
    by_mean = {
        k: np.nanmean(v, 0) for k, v in table.items() if k.startswith(("mse/", "ssim/", "kl"))
    }
    found: dict[str, Any] = {"windows": np.isfinite(table["reward"]).sum(0)}
    if "mse/model" in by_mean:
        for kind in ("mse", "ssim"):
            found[kind] = {name: by_mean[f"{kind}/{name}"] for name in ("model", "copy", "mean")}
        # PSNR of the mean error: a mean of decibels would overweight nearly perfect pictures.
        found["psnr"] = {
            name: psnr(torch.from_numpy(error)).numpy() for name, error in found["mse"].items()
        }
    kl = {"model": by_mean["kl"], "copy": by_mean["kl_copy"], "mean": by_mean["kl_mean"]}
    found["kl"] = {**kl, "closed_loop": closed}
    predictions = {
        "model": table["predicted_reward"],
        "copy": table["copied_reward"],
        "mean": baseline.reward,
    }
    errors = {
        k: np.sqrt(np.nanmean(np.square(v - table["reward"]), 0)) for k, v in predictions.items()
    }
    predicted = {"model": table["predicted_reward"], "copy": table["copied_reward"]}
    similarity = {
        k: np.array([pearson(*pair) for pair in _split_by_horizon(v, table["reward"])])
        for k, v in predicted.items()
    }
    found["reward"] = {"rmse": errors, "correlation": similarity}
    return found | {"continuation": _score_continuation(table, baseline)}


def _score_continuation(table: Table, baseline: MeanBaseline) -> dict[str, Any]:
    pairs = _split_by_horizon(table["predicted_cont"], table["cont"])
    # A rollout starts before the end of the episode, so copy predicts that it continues.
    constants = {"copy": 1.0, "mean": baseline.cont}
    scores = {
        k: np.array([brier_score(np.full(len(happened), c), happened) for _, happened in pairs])
        for k, c in constants.items()
    }
    whole, each = (
        compute_reliability(*_drop_missing(table["predicted_cont"], table["cont"])),
        [compute_reliability(*pair) for pair in pairs],
    )
    return {
        "ends_seen": int((table["cont"] == 0).sum()),
        "brier": {"model": np.array([brier_score(*pair) for pair in pairs]), **scores},
        "calibration_error": compute_calibration_error(whole),
        "reliability": whole,
        "calibration_error_by_horizon": np.array(
            [compute_calibration_error(bins) for bins in each]
        ),
        "reliability_by_horizon": each,
    }


def _split_by_horizon(
    predicted: np.ndarray, happened: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    return [_drop_missing(*columns) for columns in zip(predicted.T, happened.T, strict=True)]


def _drop_missing(predicted: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the pairs whose truth is known."""
    inside = np.isfinite(happened)
    return predicted[inside], happened[inside]
