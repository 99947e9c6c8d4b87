"""Uncertainty: the disagreement of imagined rollouts of the same actions, and their error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode, to_uint8
from worldmodel.evaluation.plotting.style import load_pyplot, save_figure
from worldmodel.evaluation.quality.prediction_metrics import pearson

MAX_COLUMNS = 10
HEAT = "inferno"  # brightness increases throughout: readable without colours too
# In units of pixels in [0, 1]: equal rollouts in rows of one batch may differ by rounding.
ROUNDING = 1e-6


def measure_disagreement(
    observed: ObservedEpisode, length: int, samples: int
) -> dict[str, np.ndarray]:
    """Standard deviation over rollouts and error of their mean (L,H,W); truth and mean uint8."""
    observed.model.reseed(0)
    start = {k: v.expand(samples, *v.shape[1:]) for k, v in observed.start.items()}
    actions = observed.actions(observed.context, length).expand(samples, -1, -1)
    plot_disagreement = observed.model.decode(observed.model.imagine(start, actions))
    mean = plot_disagreement.mean(0)
    truth = observed.true_pictures(slice(observed.context, observed.context + length))
    error = np.abs(mean.numpy() - truth / 255.0).mean(-1)
    std = plot_disagreement.std(0, correction=0).mean(-1).numpy()
    return {
        "std": np.where(std > ROUNDING, std, 0),
        "error": error,
        "truth": truth,
        "mean": to_uint8(mean),
    }


def summarize_disagreement(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means by step, and the correlation of deviation and error over all pixels."""
    return {
        "std": found["std"].mean((1, 2)),
        "error": found["error"].mean((1, 2)),
        "correlation": [pearson(s, e) for s, e in zip(found["std"], found["error"], strict=True)],
        "correlation_pooled": pearson(found["std"], found["error"]),
    }


def plot_disagreement(found: dict[str, np.ndarray], target: Path, title: str) -> Path:
    """Plot truth, mean rollout, standard deviation and error; both maps have one scale."""
    length = len(found["truth"])
    steps = np.unique(np.linspace(0, length - 1, min(MAX_COLUMNS, length)).round().astype(int))
    figure, grid = load_pyplot().subplots(
        4,
        len(steps),
        figsize=(1.25 * len(steps) + 1.4, 6),
        dpi=90,
        squeeze=False,
        layout="constrained",
    )
    top = max(float(np.percentile(found["error"], 99.5)), float(found["std"].max()), 1e-6)
    shown = None
    for column, t in enumerate(steps):
        for row, key in enumerate(("truth", "mean", "std", "error")):
            axes, heat = grid[row, column], key in ("std", "error")
            image = axes.imshow(
                found[key][t], **({"cmap": HEAT, "vmin": 0, "vmax": top} if heat else {})
            )
            shown = image if heat else shown
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            if not column:
                axes.set_ylabel(
                    {"mean": "mean rollout", "std": "std", "error": "error"}.get(key, key)
                )
        grid[0, column].set_title(f"step {t + 1}", fontsize=8)
    figure.colorbar(shown, ax=grid[2:, :], label="of pixels in [0, 1]", shrink=0.8)
    return save_figure(figure, target, title)


def make_tiles(found: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Videos of truth, mean rollout and standard deviation."""
    from matplotlib import colormaps

    top = max(float(found["std"].max()), 1e-6)
    heat = (colormaps[HEAT](found["std"] / top)[..., :3] * 255).round().astype(np.uint8)
    return [
        ("truth", found["truth"]),
        ("mean rollout", found["mean"]),
        (f"std, 0 to {top:.2g}", heat),
    ]
