"""The report's plots of eval.py's results: model quality, and returns by thinking time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.evaluation.plotting.style import describe_markers, scale_markers
from worldmodel.evaluation.quality.quality_plots import MIN_SHOWN
from worldmodel.evaluation.quality.summary_text import average_known
from worldmodel.evaluation.report.glossary import NO_ENDINGS_NOTE, PLOT_NOTES
from worldmodel.evaluation.report.html import render_paragraph
from worldmodel.evaluation.report.reported_run import require_number
from worldmodel.evaluation.report.svg import MEAN, REFERENCES, Series, plot_bars, plot_lines

# One style per curve, the same in every plot.
CURVE_STYLES: dict[str, int | str] = {
    "model": 0,
    "copy": 1,
    "mean": REFERENCES[1],
    "closed loop": 2,
    "shuffled actions": 3,
    "size of differences": 4,
}
PLAN_STYLES: dict[
    str, tuple[int | str, int]
] = {  # a style and a mark for each kind of plan, as in model.png
    "random": (REFERENCES[0], 0),
    "actor": (4, 1),
    "planner": (0, 3),
}
PREDICTORS = ("model", "copy", "mean")
X_NAME = "steps after the last seen frame"


def render_quality_plots(x: dict[str, Any]) -> str:
    """Up to fifteen plots of model.json; results that were left out have none."""
    panels = [
        _plot_predictors(x.get(key), name)
        for key, name in (
            ("mse", "picture MSE, lower is better"),
            ("psnr", "picture PSNR in dB, higher is better"),
            ("ssim", "SSIM, higher is better"),
        )
    ]
    kl, reward, ends = x["kl"], x["reward"], x["continuation"]
    latent = {name: kl[name] for name in PREDICTORS}
    latent["closed loop"] = [kl["closed_loop"]] * len(kl["model"])
    correlations = {
        name: reward["correlation"][name] for name in PREDICTORS if name in reward["correlation"]
    }
    panels += [
        _plot_curves(latent, "latent KL in nats, lower is better", log=True),
        _plot_predictors(reward["rmse"], "reward error (RMSE), lower is better"),
        _plot_curves(correlations, "reward correlation, 1 is best", floor=MIN_SHOWN),
        *_plot_continuation(ends),
        *_plot_plan_returns(x.get("plans")),
        *_plot_policy_returns(x.get("policies")),
    ]
    if "sensitivity" in x:
        names = {
            "model": "agreement",
            "shuffled actions": "shuffled",
            "size of differences": "gain",
        }
        found = {name: x["sensitivity"][key] for name, key in names.items()}
        panels.append(_plot_curves(found, "action sensitivity, 1 is right", floor=MIN_SHOWN))
    if "probe" in x:
        read = {
            name: [average_known(row) for row in x["probe"][key]]
            for name, key in (("model", "open_loop"), ("copy", "copy"))
        }
        read["closed loop"] = [average_known(x["probe"]["posterior"])] * len(read["model"])
        panels.append(_plot_curves(read, "simulator state, R², 1 is best", floor=MIN_SHOWN))
    unended = render_paragraph(NO_ENDINGS_NOTE, "soft") if ends.get("ends_seen") == 0 else ""
    return f'<div class="plots">{"".join(panels)}</div>{unended}'


def _plot_continuation(ends: dict[str, Any]) -> list[str]:
    """Plots of the continuation head; none if no episode terminated, as they would be empty."""
    if ends.get("ends_seen") == 0:
        return []
    off = {"model": ends["calibration_error_by_horizon"]}
    return [
        _plot_predictors(ends["brier"], "continuation (Brier score), lower is better"),
        _plot_curves(off, "calibration error of continuation, 0 is best"),
        _plot_reliability(ends["reliability"]),
    ]


def _plot_predictors(found: dict[str, Any] | None, title: str) -> str:
    """The model's curve beside those of the baselines."""
    return (
        _plot_curves({name: found[name] for name in PREDICTORS if name in found}, title, True)
        if found
        else ""
    )


def _plot_curves(
    found: Mapping[str, Sequence], title: str, log: bool = False, floor: float | None = None
) -> str:
    """Known numbers over the steps since the last seen frame."""
    series = [
        Series(
            name,
            [(h + 1.0, require_number(y)) for h, y in enumerate(line) if y is not None],
            CURVE_STYLES[name],
        )
        for name, line in found.items()
    ]
    return plot_lines(
        title, series, X_NAME, log=log, floor=floor, note=PLOT_NOTES.get(title.split(",")[0], "")
    )


def _make_diagonal(low: float, high: float, name: str) -> Series:
    return Series(name, [(low, low), (high, high)], MEAN, thin=True)


def _plot_reliability(table: dict[str, list]) -> str:
    """The share of episodes that continued over the predicted probability of it."""
    rows = [
        (require_number(predicted), require_number(happened))
        for count, predicted, happened in zip(
            *(table[k] for k in ("count", "predicted", "happened")), strict=True
        )
        if count
    ]
    series = [_make_diagonal(0.0, 1.0, "calibrated"), Series("model", rows, 0, dots=True)]
    title, note = (
        "share of episodes that continue; calibrated on the line",
        PLOT_NOTES["reliability"],
    )
    return plot_lines(title, series, "predicted probability", note=note) if rows else ""


def _plot_plan_returns(plans: dict[str, Any] | None) -> list[str]:
    """Imagined over real returns of plans, and the gap by kind of plan."""
    if not plans:
        return []
    tried = [
        (kind, require_number(real), require_number(imagined))
        for kind, real, imagined in zip(
            plans["kind"], plans["real"], plans["imagined"], strict=True
        )
    ]
    both = [y for _, *pair in tried for y in pair]
    series = [_make_diagonal(min(both), max(both), "imagined = real")]
    series += [
        Series(
            kind,
            [(real, imagined) for k, real, imagined in tried if k == kind],
            PLAN_STYLES[kind][0],
            dots=True,
            mark=PLAN_STYLES[kind][1],
        )
        for kind in plans["by_kind"]
    ]
    names = {"planner": "planner (exploitation)"}
    gaps = [(names.get(kind, kind), *_read_gap(x)) for kind, x in plans["by_kind"].items()]
    return [
        plot_lines(
            "imagined returns of plans; correct on the line",
            series,
            "real return",
            note=PLOT_NOTES["returns of plans"],
        ),
        plot_bars(
            "imagined minus real return, 0 is best",
            gaps,
            [PLAN_STYLES[kind][0] for kind in plans["by_kind"]],
            PLOT_NOTES["gap"],
        ),
    ]


def _read_gap(x: dict[str, Any]) -> tuple[float, float, float]:
    """The gap and its interval; a single start has no interval."""
    value = require_number(x["gap"])
    low, high = (
        value if x[f"gap_{end}"] is None else require_number(x[f"gap_{end}"])
        for end in ("low", "high")
    )
    return value, low, high


def _plot_policy_returns(found: dict[str, Any] | None) -> list[str]:
    """Imagined over real returns of policies, and the gap of each policy."""
    if not found:
        return []
    tried = {
        name: (require_number(x["real"]), require_number(x["imagined"]))
        for name, x in found["by_policy"].items()
    }
    both = [y for pair in tried.values() for y in pair]
    series = [_make_diagonal(min(both), max(both), "imagined = real")]
    series += [
        Series(name, [pair], i, intervals=True) for i, (name, pair) in enumerate(tried.items())
    ]
    gaps = [(name, *_read_gap(x)) for name, x in found["by_policy"].items()]
    return [
        plot_lines(
            "imagined returns of policies; correct on the line",
            series,
            f"real return, {found['steps']} steps",
            note=PLOT_NOTES["returns of policies"],
        ),
        plot_bars(
            "policies: imagined minus real return, 0 is best",
            gaps,
            range(len(gaps)),
            PLOT_NOTES["gap"],
        ),
    ]


def plot_drivers(drivers: dict[str, dict[str, Any]]) -> str:
    """Return over thinking time; a line connects the budgets of each driver."""
    series, sizes = [], scale_markers(map(_count_candidates, drivers.values()))
    # Files of earlier versions do not have the key "way".
    ways = {name: str(r.get("way", name)) for name, r in drivers.items()}
    for number, way in enumerate(dict.fromkeys(ways.values())):
        own = sorted(
            (drivers[name] for name in ways if ways[name] == way),
            key=lambda r: require_number(r["ms_per_action"]),
        )
        mean, low, high = (
            [require_number(r[f"eval/score{k}"]) for r in own] for k in ("", "_low", "_high")
        )
        points = [(require_number(r["ms_per_action"]), y) for r, y in zip(own, mean, strict=True)]
        scales = [sizes.get(count, 1.0) for count in map(_count_candidates, own)]
        series.append(
            Series(way, points, number, low=low, high=high, intervals=True, scales=scales)
        )
    title = "mean return, 95 % range: up is better, left is quicker"
    return plot_lines(
        title,
        series,
        "milliseconds per action",
        log_x=True,
        note=describe_markers(sizes).removeprefix("; "),
    )


def _count_candidates(driver: dict[str, Any]) -> int:
    """The number of candidate plans; 0 without a planner."""
    count = driver.get("candidates")
    return count if isinstance(count, int) else 0
