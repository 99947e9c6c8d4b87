"""One page of plots of a model's quality, each with a title that says which way is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.plots import COLORS, pyplot, save
from worldmodel.evaluation.quality_text import mean_known

# A line style each beside the colour, so that neither alone has to tell them apart.
STYLES: dict[str, dict[str, Any]] = {
    "model": {"color": COLORS[0], "ls": "-", "lw": 2},
    "nothing changes": {"color": COLORS[1], "ls": "--", "lw": 1.5},
    "the mean": {"color": COLORS[6], "ls": ":", "lw": 1.5},
    "every frame seen": {"color": COLORS[2], "ls": "-.", "lw": 1.5},
    "shuffled actions": {"color": COLORS[3], "ls": "--", "lw": 1.5},
    "size of differences": {"color": COLORS[4], "ls": "-.", "lw": 1.5},
}
KINDS = {"random": ("#999999", "o"), "actor": (COLORS[4], "s"), "planner": (COLORS[0], "D")}


def page(found: dict[str, Any], target: Path, title: str) -> Path:
    """Twelve panels; one whose numbers were left out says so. `found` is what the JSON file holds."""
    figure, grid = pyplot().subplots(3, 4, figsize=(16, 10.5), dpi=100)
    pictures, returns, plans = (grid[i] for i in range(3))
    for axes, key, name in zip(
        pictures, ("mse", "psnr", "ssim"), ("picture MSE, lower", "PSNR in dB, higher", "SSIM, higher"), strict=False
    ):
        curves = {n: found[key][k] for n, k in GUESSES} if key in found else {}
        _curves(axes, f"{name} is better", curves)
    kl = found["kl"]
    seen = [kl["closed_loop"]] * len(kl["model"])
    lines = {"model": kl["model"], "nothing changes": kl["copy"], "every frame seen": seen}
    _curves(pictures[3], "latent KL in nats, lower is better", lines, log=True)
    reward, ends = found["reward"], found["continuation"]
    _curves(returns[0], "reward error (RMSE), lower is better", {n: reward["rmse"][k] for n, k in GUESSES})
    _curves(returns[1], "reward correlation, 1 is best", {"model": reward["correlation"]}, low=-0.05)
    brier = {"model": ends["brier"]["model"], "the mean": ends["brier"]["mean"]}
    _curves(returns[2], "continuation (Brier score), lower is better", brier)
    _reliability(returns[3], ends["reliability"])
    _returns(plans[0], plans[1], found.get("plans"))
    s = found.get("sensitivity", {})
    names = {"model": "agreement", "shuffled actions": "shuffled", "size of differences": "gain"}
    _curves(plans[2], "action sensitivity, 1 is right", {n: s[k] for n, k in names.items()} if s else {}, low=-0.3)
    p = found.get("probe", {})
    read = {n: [mean_known(row) for row in p[k]] for n, k in (("model", "open_loop"), ("nothing changes", "copy")) if p}
    if p:
        read["every frame seen"] = [mean_known(p["posterior"])] * len(read["model"])
    _curves(plans[3], "true state read off, R² (1 is all of it)", read, low=-0.5)
    return save(figure, target, title)


GUESSES = (("model", "model"), ("nothing changes", "copy"), ("the mean", "mean"))


def _curves(axes, title: str, lines: Mapping[str, Sequence], log: bool = False, low: float | None = None) -> None:
    """Numbers over the steps since the last seen frame; what lies below `low` is off the panel."""
    from matplotlib.ticker import LogFormatter

    known = {n: np.array([np.nan if x is None else x for x in line], float) for n, line in lines.items()}
    axes.set_title(title, fontsize=10)
    if not any(np.isfinite(line).any() for line in known.values()):
        _empty(axes)
        return
    for name, line in known.items():
        marker = "." if len(line) < 4 else None
        axes.plot(np.arange(1, len(line) + 1), line, label=name, marker=marker, **STYLES[name])
    if log and min(np.nanmin(line) for line in known.values()) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
    if low is not None:
        axes.set_ylim(low, max(1.05, *(np.nanmax(line) for line in known.values() if np.isfinite(line).any())))
    axes.set_xlabel("steps after the last seen frame", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _empty(axes) -> None:
    axes.text(0.5, 0.5, "left out", ha="center", va="center", color="#555555", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _reliability(axes, table: dict[str, list]) -> None:
    """How often episodes went on, by how probable that was said to be; large dots are many predictions."""
    rows = [row for row in zip(*table.values(), strict=True) if row[0]]
    counts, said, was = (np.array(column, float) for column in zip(*rows, strict=True))
    axes.plot([0, 1], [0, 1], **STYLES["the mean"], label="honest")
    axes.scatter(said, was, s=15 + 120 * counts / counts.max(), color="#0072B2", label="model", zorder=3)
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.set_title("continuation, on the line is honest", fontsize=10)
    axes.set_xlabel("said probability of going on", fontsize=8)
    axes.set_ylabel("went on", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _returns(scatter, bars, plans: dict[str, Any] | None) -> None:
    """Imagined against real returns of plans, and the gap by kind."""
    scatter.set_title("returns of plans, on the line is right", fontsize=10)
    bars.set_title("imagined minus real return, 0 is best", fontsize=10)
    if plans is None:
        _empty(scatter)
        _empty(bars)
        return
    kind, said, was = (np.array(plans[k]) for k in ("kind", "imagined", "real"))
    low, high = min(said.min(), was.min()), max(said.max(), was.max())
    scatter.plot([low, high], [low, high], **STYLES["the mean"])
    for place, (name, x) in enumerate(plans["by_kind"].items()):
        color, marker = KINDS[name]
        scatter.scatter(was[kind == name], said[kind == name], s=22, color=color, marker=marker, label=name, alpha=0.8)
        error = [[x["gap"] - x["gap_low"]], [x["gap_high"] - x["gap"]]]
        bars.bar(place, x["gap"], color=color, yerr=error, capsize=6, ecolor="#222222")
    scatter.set_xlabel("real return", fontsize=8)
    scatter.set_ylabel("imagined return", fontsize=8)
    names = {"planner": "planner\n(exploitation)"}
    bars.set_xticks(range(len(plans["by_kind"])), [names.get(n, n) for n in plans["by_kind"]])
    bars.axhline(0, color="#222222", lw=1)
    for axes in (scatter, bars):
        axes.grid(alpha=0.3)
    scatter.legend(fontsize=7)
