"""A model's quality and ways to drive it as plots of the page, from the numbers that
eval.py left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.evaluation.plotting.style import growing, told
from worldmodel.evaluation.quality.page import LOWEST
from worldmodel.evaluation.quality.summary_text import mean_known
from worldmodel.evaluation.report.gather import sure
from worldmodel.evaluation.report.glossary import PLOTS, UNENDED
from worldmodel.evaluation.report.html import p
from worldmodel.evaluation.report.svg import MEAN, REFERENCES, Series, bars, lines

# A style each, the same in every panel.
STYLES: dict[str, int | str] = {
    "model": 0,
    "nothing changes": 1,
    "the mean": REFERENCES[1],
    "every frame seen": 2,
    "shuffled actions": 3,
    "size of differences": 4,
}
KINDS: dict[
    str, tuple[int | str, int]
] = {  # a style and a mark for each kind of plans, as model.png has them
    "random": (REFERENCES[0], 0),
    "actor": (4, 1),
    "planner": (0, 3),
}
GUESSES = {"model": "model", "nothing changes": "copy", "the mean": "mean"}
AFTER = "steps after the last seen frame"


def quality(x: dict[str, Any]) -> str:
    """Up to fifteen panels of model.json; what was left out has none, and a line says why."""
    panels = [
        _guessed(x.get(key), name)
        for key, name in (
            ("mse", "picture MSE, lower is better"),
            ("psnr", "picture PSNR in dB, higher is better"),
            ("ssim", "SSIM, higher is better"),
        )
    ]
    kl, reward, ends = x["kl"], x["reward"], x["continuation"]
    seen = {name: kl[key] for name, key in GUESSES.items()}
    seen["every frame seen"] = [kl["closed_loop"]] * len(kl["model"])
    alike = {
        name: reward["correlation"][key]
        for name, key in GUESSES.items()
        if key in reward["correlation"]
    }
    panels += [
        _curves(seen, "latent KL in nats, lower is better", log=True),
        _guessed(reward["rmse"], "reward error (RMSE), lower is better"),
        _curves(alike, "reward correlation, 1 is best", floor=LOWEST),
        *_continuation(ends),
        *_returns(x.get("plans")),
        *_policies(x.get("policies")),
    ]
    if "sensitivity" in x:
        names = {
            "model": "agreement",
            "shuffled actions": "shuffled",
            "size of differences": "gain",
        }
        found = {name: x["sensitivity"][key] for name, key in names.items()}
        panels.append(_curves(found, "action sensitivity, 1 is right", floor=LOWEST))
    if "probe" in x:
        read = {
            name: [mean_known(row) for row in x["probe"][key]]
            for name, key in (("model", "open_loop"), ("nothing changes", "copy"))
        }
        read["every frame seen"] = [mean_known(x["probe"]["posterior"])] * len(read["model"])
        panels.append(_curves(read, "true state read off, R² (1 is all of it)", floor=LOWEST))
    unended = p(UNENDED, "soft") if ends.get("ends_seen") == 0 else ""
    return f'<div class="plots">{"".join(panels)}</div>{unended}'


def _continuation(ends: dict[str, Any]) -> list[str]:
    """None where no end was measured: a flat line and a point in a corner would be all
    there is.
    """
    if ends.get("ends_seen") == 0:
        return []
    off = {"model": ends["calibration_error_by_horizon"]}
    return [
        _guessed(ends["brier"], "continuation (Brier score), lower is better"),
        _curves(off, "calibration error of continuation, 0 is honest"),
        _reliability(ends["reliability"]),
    ]


def _guessed(found: dict[str, Any] | None, title: str) -> str:
    """The model's curve beside those that need no model."""
    return (
        _curves({name: found[key] for name, key in GUESSES.items() if key in found}, title, True)
        if found
        else ""
    )


def _curves(
    found: Mapping[str, Sequence], title: str, log: bool = False, floor: float | None = None
) -> str:
    """Numbers by the steps since the last seen frame, where they are known."""
    series = [
        Series(
            name, [(h + 1.0, sure(y)) for h, y in enumerate(line) if y is not None], STYLES[name]
        )
        for name, line in found.items()
    ]
    return lines(
        title, series, AFTER, log=log, floor=floor, note=PLOTS.get(title.split(",")[0], "")
    )


def _on_the_line(low: float, high: float, name: str) -> Series:
    return Series(name, [(low, low), (high, high)], MEAN, thin=True)


def _reliability(table: dict[str, list]) -> str:
    """How often episodes went on, by how probable that was said to be."""
    rows = [
        (sure(said), sure(was))
        for count, said, was in zip(
            *(table[k] for k in ("count", "predicted", "happened")), strict=True
        )
        if count
    ]
    series = [_on_the_line(0.0, 1.0, "honest"), Series("model", rows, 0, dots=True)]
    title, note = "how often episodes went on, on the line is honest", PLOTS["reliability"]
    return lines(title, series, "said probability of it", note=note) if rows else ""


def _returns(plans: dict[str, Any] | None) -> list[str]:
    """Imagined against real returns of plans, and the gap by kind."""
    if not plans:
        return []
    tried = [
        (kind, sure(was), sure(said))
        for kind, was, said in zip(plans["kind"], plans["real"], plans["imagined"], strict=True)
    ]
    both = [y for _, *pair in tried for y in pair]
    series = [_on_the_line(min(both), max(both), "right")]
    series += [
        Series(
            kind,
            [(was, said) for k, was, said in tried if k == kind],
            KINDS[kind][0],
            dots=True,
            mark=KINDS[kind][1],
        )
        for kind in plans["by_kind"]
    ]
    names = {"planner": "planner (exploitation)"}
    gaps = [(names.get(kind, kind), *_gap(x)) for kind, x in plans["by_kind"].items()]
    return [
        lines(
            "imagined returns of plans, on the line is right",
            series,
            "real return",
            note=PLOTS["returns of plans"],
        ),
        bars(
            "imagined minus real return, 0 is best",
            gaps,
            [KINDS[kind][0] for kind in plans["by_kind"]],
            PLOTS["gap"],
        ),
    ]


def _gap(x: dict[str, Any]) -> tuple[float, float, float]:
    """The gap and its interval, which a single start does not have."""
    value = sure(x["gap"])
    low, high = (
        value if x[f"gap_{end}"] is None else sure(x[f"gap_{end}"]) for end in ("low", "high")
    )
    return value, low, high


def _policies(found: dict[str, Any] | None) -> list[str]:
    """Imagined against real returns of policies, a colour each, and the gap of each."""
    if not found:
        return []
    tried = {
        name: (sure(x["real"]), sure(x["imagined"])) for name, x in found["by_policy"].items()
    }
    both = [y for pair in tried.values() for y in pair]
    series = [_on_the_line(min(both), max(both), "right")]
    series += [Series(name, [pair], i, bars=True) for i, (name, pair) in enumerate(tried.items())]
    gaps = [(name, *_gap(x)) for name, x in found["by_policy"].items()]
    return [
        lines(
            "imagined returns of policies, on the line is right",
            series,
            f"real return, {found['steps']} steps",
            note=PLOTS["returns of policies"],
        ),
        bars(
            "policies: imagined minus real return, 0 is best", gaps, range(len(gaps)), PLOTS["gap"]
        ),
    ]


def planners(drivers: dict[str, dict[str, Any]]) -> str:
    """Return against thinking time, a line through the budgets of each way to drive."""
    series, sizes = [], growing(map(_candidates, drivers.values()))
    # Older files do not say which are one way
    ways = {name: str(r.get("way", name)) for name, r in drivers.items()}
    for number, way in enumerate(dict.fromkeys(ways.values())):
        own = sorted(
            (drivers[name] for name in ways if ways[name] == way),
            key=lambda r: sure(r["ms_per_action"]),
        )
        mean, low, high = ([sure(r[f"eval/score{k}"]) for r in own] for k in ("", "_low", "_high"))
        points = [(sure(r["ms_per_action"]), y) for r, y in zip(own, mean, strict=True)]
        scales = [sizes.get(count, 1.0) for count in map(_candidates, own)]
        series.append(Series(way, points, number, low=low, high=high, bars=True, scales=scales))
    title = "mean return, 95 % range: up is better, left is quicker"
    return lines(
        title, series, "milliseconds per action", log_x=True, note=told(sizes).removeprefix("; ")
    )


def _candidates(driver: dict[str, Any]) -> int:
    """How many a planner tries; 0 where nothing is tried."""
    count = driver.get("candidates")
    return count if isinstance(count, int) else 0
