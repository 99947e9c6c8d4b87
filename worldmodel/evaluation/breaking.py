"""Dreams that go on until they break: the horizon from which on a picture that never changes is as near to the truth.

A dream breaks at the first of `PATIENCE` steps in a row at which its error, the mean over dreams, is no less than that
of the mean picture of the whole episode, the best of all guesses that never change. Likewise it loses to the last seen
frame, and its latent to the last seen latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.open_loop import pick, starts_of
from worldmodel.evaluation.pictures import squared_error
from worldmodel.evaluation.plots import COLORS, pyplot, save
from worldmodel.evaluation.scene import Scene

PATIENCE = 3
Curve = np.ndarray


def loses(own: Sequence[float] | Curve, guess: Sequence[float] | Curve) -> int | None:
    """The step, from 1, that begins the first `PATIENCE` in a row at which `own` is no less; None where there is none."""
    behind = np.asarray(own) >= np.asarray(guess)
    for h in range(len(behind) - PATIENCE + 1):
        if behind[h : h + PATIENCE].all():
            return h + 1
    return None


def longest(scene: Scene, wanted: int | None) -> int:
    """Steps of the longest dreams: as asked for, as far as the episode goes; else half of what lies after the context."""
    most = len(scene.episode) - scene.context
    return min(wanted, most) if wanted else max(1, most // 2)


def until_broken(scene: Scene, length: int) -> dict[str, Any]:
    """Errors by horizon (H,) over dreams from all over the episode, and where they lose."""
    starts = starts_of(scene.episode, scene.context, length)
    mean = torch.from_numpy(scene.truth(slice(None)).mean(0, dtype=np.float64) / 255).float()
    sums = {name: np.full((len(starts), length), np.nan) for name in ("model", "copy", "mean", "kl", "kl_copy")}
    for n, start in enumerate(starts):
        reach = min(length, len(scene.episode) - 1 - start)
        begin, after = pick(scene.belief, np.array([start])), slice(start + 1, start + 1 + reach)
        scene.model.reseed(n)
        dream = scene.model.imagine(begin, scene.actions(start + 1, reach))
        truth, last = (torch.from_numpy(scene.truth(x)).float() / 255 for x in (after, start))
        for name, guess in (("model", scene.model.decode(dream)[0]), ("copy", last), ("mean", mean)):
            sums[name][n, :reach] = squared_error(guess.expand_as(truth), truth)
        real = {k: v[after][None] for k, v in scene.belief.items()}
        still = {k: v.unsqueeze(1) for k, v in begin.items()}
        for name, guess in (("kl", dream), ("kl_copy", still)):
            sums[name][n, :reach] = scene.model.kl(real, guess)[0]
    seen = int(np.isfinite(sums["model"]).any(0).sum())
    curves = {k: np.nanmean(v[:, :seen], 0) for k, v in sums.items()}
    c = scene.run.config
    return {
        "length": seen,
        "dreams": len(starts),
        "patience": PATIENCE,
        "trained": {"sequence": c.replay.length, "overshooting": c.loss.overshooting, "imagination": c.imag.horizon},
        "mse": {k: curves[k] for k in ("model", "copy", "mean")},
        "kl": {"model": curves["kl"], "copy": curves["kl_copy"]},
        "breaks": loses(curves["model"], curves["mean"]),
        "behind_copy": loses(curves["model"], curves["copy"]),
        "kl_behind_copy": loses(curves["kl"], curves["kl_copy"]),
    }


def described(found: dict[str, Any]) -> str:
    """What became of the dreams, and by what rule."""
    reach, trained = found["length"], found["trained"]["sequence"]
    broke = found["breaks"]
    end = f"break at step {broke}" if broke else f"do not break in {reach} steps"
    copy = found["behind_copy"]
    lost = f"from step {copy} on" if copy else "never"
    return (f"long dreams {end}: where, {PATIENCE} steps in a row, the episode's mean picture is as near to the truth; "
            f"the last seen frame is: {lost}. Training saw sequences of {trained} steps")  # fmt: skip


def drawn(scene: Scene, found: dict[str, Any], target: Path, title: str) -> Path:
    """Both errors by horizon, and truth and dream at doubling horizons."""
    steps = np.unique(np.geomspace(1, found["length"], 10).round().astype(int))
    figure = pyplot().figure(figsize=(13, 7.2), dpi=90)
    grid = figure.add_gridspec(3, len(steps), height_ratios=[2.2, 1, 1])
    half = len(steps) // 2
    _errors(figure.add_subplot(grid[0, :half]), "picture MSE, lower is better", found["mse"], found, found["breaks"])
    _errors(figure.add_subplot(grid[0, half:]), "latent KL in nats, lower is better", found["kl"], found,
            found["kl_behind_copy"])  # fmt: skip
    scene.model.reseed(0)
    start = int(starts_of(scene.episode, scene.context, found["length"])[0])
    states = scene.model.imagine(pick(scene.belief, np.array([start])), scene.actions(start + 1, int(steps[-1])))
    dreamt = scene.pictures({k: v[0, steps[steps <= v.shape[1]] - 1] for k, v in states.items()})
    for column, (h, picture) in enumerate(zip(steps, dreamt, strict=False)):
        for row, (name, shown) in enumerate((("truth", scene.truth(start + h)), ("dream", picture))):
            axes = figure.add_subplot(grid[1 + row, column])
            axes.imshow(shown)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            broken = found["breaks"] is not None and h >= found["breaks"]
            axes.set_title(f"{name}, step {h}", fontsize=8, color=COLORS[1] if broken and row else "black")
    return save(figure, target, title)


def _errors(axes: Any, title: str, curves: dict[str, Curve], found: dict[str, Any], lost: int | None) -> None:
    names = {"model": ("the dream", 0, "-"), "copy": ("the last seen, for ever", 1, "--"), "mean": ("the mean", 6, ":")}
    for key, curve in curves.items():
        name, color, dash = names[key]
        axes.plot(np.arange(1, len(curve) + 1), curve, label=name, color=COLORS[color], ls=dash, lw=2)
    axes.axvline(found["trained"]["sequence"], color=COLORS[2], ls="-.", lw=1.5, label="length of trained sequences")
    if lost:
        axes.axvline(lost, color="black", lw=1.5, label=f"lost from step {lost} on")
    axes.set(title=title, xlabel="steps after the last seen frame", yscale="log")
    axes.legend()
