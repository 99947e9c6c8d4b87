"""Long rollouts beside the truth, and their useful horizon.

The useful horizon is where the squared error of the mean over several samples is no less than that
of the mean picture of many episodes. The mean over samples counts, because a single sample of an
unpredictable future has twice its error in any model. The horizons relative to the last seen frame
and, by the mean KL, to the last seen latent are found in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.config.schema import Config
from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.plotting.style import COLORS, load_pyplot, save_figure
from worldmodel.evaluation.quality.image_metrics import squared_error
from worldmodel.evaluation.quality.open_loop_error import choose_starts
from worldmodel.evaluation.quality.useful_horizon import PATIENCE, find_useful_horizon
from worldmodel.spaces import select_states

Curve = np.ndarray


def choose_length(observed: ObservedEpisode, wanted: int | None) -> int:
    """Steps of the longest rollouts: `wanted`, or half of the episode after the context."""
    most = len(observed.episode) - observed.context
    return min(wanted, most) if wanted else max(1, most // 2)


def measure_long_rollouts(
    observed: ObservedEpisode, c: Config, length: int, samples: int
) -> dict[str, Any]:
    """Errors by horizon (H,) over rollouts from many steps of the episode, and the horizons.

    The configuration says over how many steps the model was trained.
    """
    starts = choose_starts(observed.episode, observed.context, length)
    rows = [_measure_errors(observed, int(start), length, samples) for start in starts]
    reach = max(len(row["mean"]) for row in rows)
    padded = {
        k: [np.pad(row[k], (0, reach - len(row[k])), constant_values=np.nan) for row in rows]
        for k in rows[0]
    }
    curves = {k: np.nanmean(np.stack(v), 0) for k, v in padded.items()}
    return {
        "length": reach,
        "dreams": len(starts),
        "samples": samples,
        "patience": PATIENCE,
        "mean_of": observed.mean_source,
        "trained": {
            "sequence": c.replay.length,
            "overshooting": c.loss.overshooting,
            "imagination": c.imag.horizon,
        },
        "mse": {k: curves[k] for k in ("model", "single", "copy", "mean")},
        "kl": {"model": curves["kl"], "copy": curves["kl_copy"]},
        "breaks": find_useful_horizon(curves["model"], curves["mean"]),
        "behind_copy": find_useful_horizon(curves["model"], curves["copy"]),
        "kl_behind_copy": find_useful_horizon(curves["kl"], curves["kl_copy"]),
    }


def _measure_errors(
    observed: ObservedEpisode, start: int, length: int, samples: int
) -> dict[str, Curve]:
    """Errors by horizon of rollouts from one step, up to the end of the episode."""
    reach = min(length, len(observed.episode) - 1 - start)
    begin, after = (
        select_states(observed.posteriors, np.array([start])),
        slice(start + 1, start + 1 + reach),
    )
    truth, last = (
        torch.from_numpy(observed.true_pictures(x)).float() / 255 for x in (after, start)
    )
    real = {k: v[after][None] for k, v in observed.posteriors.items()}
    single, kl, total = None, torch.zeros(reach), torch.zeros_like(truth)
    for k in range(samples):
        observed.model.reseed(k)
        rollout = observed.model.imagine(begin, observed.actions(start + 1, reach))
        picture = observed.model.decode(rollout)[0]
        single = picture if single is None else single
        total += picture / samples
        kl += observed.model.kl(real, rollout)[0] / samples
    assert single is not None
    still = {k: v.unsqueeze(1) for k, v in begin.items()}
    predictions = {
        "model": total,
        "single": single,
        "copy": last.expand_as(truth),
        "mean": observed.mean_picture.expand_as(truth),
    }
    errors = {name: squared_error(x, truth).numpy() for name, x in predictions.items()}
    return {**errors, "kl": kl.numpy(), "kl_copy": observed.model.kl(real, still)[0].numpy()}


def describe_rollouts(found: dict[str, Any]) -> str:
    """The useful horizons in words, and how they are defined."""
    reach, trained = found["length"], found["trained"]["sequence"]
    broke = found["breaks"]
    end = f"is step {broke}" if broke else f"is beyond {reach} steps"
    copy = found["behind_copy"]
    lost = f"from step {copy} on" if copy else "at no step"
    return (
        f"the useful horizon {end}: where the mean picture of {found['mean_of']} is as accurate "
        f"as the rollouts for {PATIENCE} steps in a row. The last seen frame is as accurate "
        f"{lost}. Training used sequences of {trained} steps"
    )


def plot_long_rollouts(
    observed: ObservedEpisode, found: dict[str, Any], target: Path, title: str
) -> Path:
    """Plot both errors by horizon; show truth and rollout at geometrically spaced steps."""
    steps = np.unique(np.geomspace(1, found["length"], 10).round().astype(int))
    figure = load_pyplot().figure(figsize=(13, 6.6), dpi=90, layout="constrained")
    grid = figure.add_gridspec(3, len(steps), height_ratios=[2.4, 1, 1])
    half = len(steps) // 2
    _plot_errors(
        figure.add_subplot(grid[0, :half]),
        "picture MSE, lower is better",
        found["mse"],
        found,
        found["breaks"],
    )
    _plot_errors(
        figure.add_subplot(grid[0, half:]),
        "latent KL in nats, lower is better",
        found["kl"],
        found,
        found["kl_behind_copy"],
    )
    observed.model.reseed(0)
    start = int(choose_starts(observed.episode, observed.context, found["length"])[0])
    states = observed.model.imagine(
        select_states(observed.posteriors, np.array([start])),
        observed.actions(start + 1, int(steps[-1])),
    )
    imagined = observed.decode_pictures(
        {k: v[0, steps[steps <= v.shape[1]] - 1] for k, v in states.items()}
    )
    for column, (h, picture) in enumerate(zip(steps, imagined, strict=False)):
        for row, (name, shown) in enumerate(
            (("truth", observed.true_pictures(start + h)), ("rollout", picture))
        ):
            axes = figure.add_subplot(grid[1 + row, column])
            axes.imshow(shown)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            broken = found["breaks"] is not None and h >= found["breaks"]
            axes.set_title(
                f"{name}, step {h}", fontsize=8, color=COLORS[1] if broken and row else "black"
            )
    return save_figure(figure, target, title)


def _plot_errors(
    axes: Any, title: str, curves: dict[str, Curve], found: dict[str, Any], lost: int | None
) -> None:
    from matplotlib.ticker import MaxNLocator

    own = "mean of the samples" if "single" in curves else "samples, on average"
    names = {
        "model": (own, 0, "-"),
        "single": ("a single sample", 5, "-"),
        "copy": ("last seen frame", 1, "--"),
        "mean": ("mean picture", 6, ":"),
    }
    for key, curve in curves.items():
        name, color, dash = names[key]
        axes.plot(
            np.arange(1, len(curve) + 1), curve, label=name, color=COLORS[color], ls=dash, lw=2
        )
    axes.axvline(
        found["trained"]["sequence"],
        color=COLORS[2],
        ls="-.",
        lw=1.5,
        label="sequence length in training",
    )
    if lost:
        axes.axvline(lost, color="black", lw=1.5, label=f"useful up to step {lost}")
    axes.set(
        title=title,
        xlabel="steps after the last seen frame",
        xlim=(0, len(next(iter(curves.values()))) + 1),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if min(np.nanmin(curve) for curve in curves.values()) > 0:
        axes.set_yscale("log")
    axes.legend()
