"""The page of plots model.png; every title says which direction is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.plotting.style import COLORS, MARKERS, load_pyplot, save_figure
from worldmodel.evaluation.quality.summary_text import average_known

# Curves differ in colour and in line style.
CURVE_STYLES: dict[str, dict[str, Any]] = {
    "model": {"color": COLORS[0], "ls": "-", "lw": 2},
    "copy": {"color": COLORS[1], "ls": "--", "lw": 1.5},
    "mean": {"color": COLORS[6], "ls": ":", "lw": 1.5},
    "closed loop": {"color": COLORS[2], "ls": "-.", "lw": 1.5},
    "shuffled actions": {"color": COLORS[3], "ls": "--", "lw": 1.5},
    "size of differences": {"color": COLORS[4], "ls": "-.", "lw": 1.5},
}
PLAN_STYLES = {"random": ("#999999", "o"), "actor": (COLORS[4], "s"), "planner": (COLORS[0], "D")}


PREDICTORS = ("model", "copy", "mean")
MIN_SHOWN = -1.05  # correlations and R² below this are clipped, and the panel says so


def plot_quality(found: dict[str, Any], target: Path, title: str) -> Path:
    """Plot sixteen panels from the content of model.json; missing results are marked."""
    figure, grid = load_pyplot().subplots(4, 4, figsize=(16, 14), dpi=100)
    _plot_pictures(grid[0], found)
    _plot_predictions(grid[1], found)
    ends, plans, s = found["continuation"], found.get("plans"), found.get("sensitivity", {})
    _plot_reliability(grid[2][0], ends["reliability"])
    _plot_plan_returns(grid[2][1], grid[2][2], plans)
    names = {"model": "agreement", "shuffled actions": "shuffled", "size of differences": "gain"}
    _plot_curves(
        grid[2][3],
        "action sensitivity, 1 is right",
        {n: s[k] for n, k in names.items()} if s else {},
        low=-0.3,
    )
    if s:
        h, chance = np.arange(1, len(s["chance"]) + 1), np.array([x or 0 for x in s["chance"]])
        grid[2][3].fill_between(
            h, -chance, chance, color=CURVE_STYLES["shuffled actions"]["color"], alpha=0.15, lw=0
        )
    p = found.get("probe", {})
    read = {
        n: [average_known(row) for row in p[k]]
        for n, k in (("model", "open_loop"), ("copy", "copy"))
        if p
    }
    if p:
        read["closed loop"] = [average_known(p["posterior"])] * len(read["model"])
    _plot_curves(grid[3][0], "simulator state, R², 1 is best", read, low=-0.5)
    _plot_policy_returns(grid[3][1], grid[3][2], found.get("policies"))
    _plot_curves(grid[3][3], "number of measured rollouts", {"model": found["windows"]}, low=0)
    return save_figure(figure, target, title)


def _plot_pictures(row: Any, found: dict[str, Any]) -> None:
    kinds = (
        ("mse", "picture MSE, lower"),
        ("psnr", "PSNR of that MSE in dB, higher"),
        ("ssim", "SSIM, higher"),
    )
    for axes, (key, name) in zip(row, kinds, strict=False):
        _plot_curves(
            axes,
            f"{name} is better",
            {n: found[key][n] for n in PREDICTORS} if key in found else {},
        )
    kl = found["kl"]
    lines = {n: kl[n] for n in PREDICTORS} | {
        "closed loop": [kl["closed_loop"]] * len(kl["model"])
    }
    _plot_curves(row[3], "latent KL in nats, lower is better", lines, log=True)


def _plot_predictions(row: Any, found: dict[str, Any]) -> None:
    reward, ends = found["reward"], found["continuation"]
    _plot_curves(
        row[0],
        "reward error (RMSE), lower is better",
        {n: reward["rmse"][n] for n in PREDICTORS},
    )
    correlations = {n: reward["correlation"][n] for n in PREDICTORS[:2]}
    _plot_curves(row[1], "reward correlation, 1 is best", correlations, low=-0.05)
    _plot_curves(
        row[2],
        "continuation (Brier score), lower is better",
        {n: ends["brier"][n] for n in PREDICTORS},
    )
    off = {"model": ends["calibration_error_by_horizon"]}
    _plot_curves(row[3], "calibration error of continuation, 0 is best", off)


def _plot_curves(
    axes, title: str, lines: Mapping[str, Sequence], log: bool = False, low: float | None = None
) -> None:
    """Plot numbers over the steps since the last seen frame; `low` widens the y axis."""
    from matplotlib.ticker import LogFormatter, MaxNLocator

    known = {
        n: np.array([np.nan if x is None else x for x in line], float) for n, line in lines.items()
    }
    axes.set_title(title, fontsize=10)
    if not any(np.isfinite(line).any() for line in known.values()):
        _mark_empty(axes)
        return
    for name, line in known.items():
        marker = "." if len(line) < 4 else None
        axes.plot(
            np.arange(1, len(line) + 1), line, label=name, marker=marker, **CURVE_STYLES[name]
        )
    every = np.concatenate(list(known.values()))
    least, most = np.nanmin(every), np.nanmax(every)
    if log and least > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
    if low is not None:
        axes.set_ylim(max(MIN_SHOWN, min(low, least - 0.05 * (low < 0))), max(1.05, 1.05 * most))
        if least < MIN_SHOWN:
            axes.text(
                0.02,
                0.02,
                f"goes down to {least:.3g}",
                transform=axes.transAxes,
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("steps after the last seen frame", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _mark_empty(axes) -> None:
    axes.text(
        0.5, 0.5, "left out", ha="center", va="center", color="#555555", transform=axes.transAxes
    )
    axes.set(xticks=[], yticks=[])


def _plot_reliability(axes, table: dict[str, list]) -> None:
    """Plot the share of episodes that continue over the predicted probability.

    The area of a dot grows with the number of predictions.
    """
    rows = [row for row in zip(*table.values(), strict=True) if row[0]]
    counts, predicted, was = (np.array(column, float) for column in zip(*rows, strict=True))
    axes.plot([0, 1], [0, 1], **CURVE_STYLES["mean"], label="calibrated")
    axes.scatter(
        predicted,
        was,
        s=15 + 120 * counts / counts.max(),
        color="#0072B2",
        label="model",
        zorder=3,
    )
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.set_title("continuation, calibrated on the line", fontsize=10)
    axes.set_xlabel("predicted probability of continuing", fontsize=8)
    axes.set_ylabel("share that continued", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _set_titles(titles: dict[Any, str], found: dict[str, Any] | None) -> None:
    """Set titles and grids, and mark panels without results."""
    for axes, title in titles.items():
        axes.set_title(title, fontsize=10)
        if found is None:
            _mark_empty(axes)
        else:
            axes.grid(alpha=0.3)


def _plot_plan_returns(scatter, bars, plans: dict[str, Any] | None) -> None:
    """Plot imagined over real returns of plans, and the gap by kind of plan."""
    _set_titles(
        {
            scatter: "returns of plans, correct on the line",
            bars: "imagined minus real return, 0 is best",
        },
        plans,
    )
    if plans is None:
        return
    kind, predicted, was = (np.array(plans[k]) for k in ("kind", "imagined", "real"))
    low, high = min(predicted.min(), was.min()), max(predicted.max(), was.max())
    scatter.plot([low, high], [low, high], **CURVE_STYLES["mean"])
    for place, (name, x) in enumerate(plans["by_kind"].items()):
        color, marker = PLAN_STYLES[name]
        scatter.scatter(
            was[kind == name],
            predicted[kind == name],
            s=22,
            color=color,
            marker=marker,
            label=name,
            alpha=0.8,
        )
        bars.bar(
            place,
            x["gap"],
            color=color,
            yerr=_measure_error_bars(x, "gap"),
            capsize=6,
            ecolor="#222222",
        )
    scatter.set_xlabel("real return", fontsize=8)
    scatter.set_ylabel("imagined return", fontsize=8)
    names = {"planner": "planner\n(exploitation)"}
    bars.set_xticks(range(len(plans["by_kind"])), [names.get(n, n) for n in plans["by_kind"]])
    bars.axhline(0, color="#222222", lw=1)
    scatter.legend(fontsize=7)


def _plot_policy_returns(scatter, bars, found: dict[str, Any] | None) -> None:
    """Plot imagined over real returns of policies and their gaps, with 95 % intervals."""
    _set_titles(
        {
            scatter: "returns of policies, correct on the line",
            bars: "policies: imagined minus real return, 0 is best",
        },
        found,
    )
    if found is None:
        return
    every = [x[k] for x in found["by_policy"].values() for k in ("imagined", "real")]
    scatter.plot([min(every), max(every)], [min(every), max(every)], **CURVE_STYLES["mean"])
    for place, (name, x) in enumerate(found["by_policy"].items()):
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        scatter.errorbar(
            x["real"],
            x["imagined"],
            _measure_error_bars(x, "imagined"),
            _measure_error_bars(x, "real"),
            color=color,
            marker=marker,
            ls="",
            ms=6,
            elinewidth=0.7,
            label=name,
        )
        bars.barh(
            place,
            x["gap"],
            color=color,
            xerr=_measure_error_bars(x, "gap"),
            capsize=3,
            ecolor="#222222",
        )
    scatter.set_xlabel(f"real return over {found['steps']} steps", fontsize=8)
    scatter.set_ylabel("imagined return", fontsize=8)
    bars.set_yticks(range(len(found["by_policy"])), list(found["by_policy"]), fontsize=7)
    bars.invert_yaxis()
    bars.axvline(0, color="#222222", lw=1)
    scatter.legend(fontsize=6)


def _measure_error_bars(x: dict[str, Any], key: str) -> list[list[float]] | None:
    """The lengths of an interval's arms below and above the mean; None without an interval."""
    low, high = x[f"{key}_low"], x[f"{key}_high"]
    return None if low is None else [[max(0.0, x[key] - low)], [max(0.0, high - x[key])]]
