"""What the numbers of a model's quality mean, in a few lines for the terminal; 95 % intervals in
brackets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from worldmodel.rollout.episodes import doubts

PATIENCE = 3  # steps in a row after which a guesser has overtaken the model
BESIDE = "beside: nothing changes; the mean of all"


def report(found: dict[str, Any], left_out: Sequence[str]) -> str:
    """A table over horizons, then single numbers; `found` is what the JSON file holds."""
    steps = ", ".join(str(h) for h in horizons(found))
    lines = [f"open loop, at {steps} steps after the last seen frame ({BESIDE})"]
    lines += [
        f"  {name:<22}{'  '.join(f'{cell:<28}' for cell in cells)}  {good}"
        for name, *cells, good in rows(found)
    ]
    lines += [f"  {line}" for line in (*reaches(found), *singles(found))]
    lines += [
        f"    {name:<28}imagined {said}; real {was}; gap {gap}"
        for name, said, was, gap in policies(found)
    ]
    return "\n".join([*lines, *omitted(left_out)])


def horizons(found: dict[str, Any]) -> list[int]:
    """The first, the middle and the last, where they differ."""
    reach = len(found["windows"])
    return list(dict.fromkeys((1, (reach + 1) // 2, reach)))


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of each curve its name, a cell for each of `horizons`, and which way is good."""
    return [
        _row(name, own, beside, good, horizons(found))
        for name, own, beside, good in _curves(found)
    ]


def omitted(left_out: Sequence[str]) -> list[str]:
    return [f"left out: {line}" for line in left_out]


def _curves(found: dict[str, Any]) -> Iterator[tuple[str, list, list[list], str]]:
    """Of each curve: its name, the model's, the guessers', and which way is good."""
    if "mse" in found:
        names = (
            ("mse", "picture MSE", "lower"),
            ("psnr", "picture PSNR, dB", "higher"),
            ("ssim", "SSIM", "higher"),
        )
        for key, name, good in names:
            yield (
                name,
                found[key]["model"],
                [found[key]["copy"], found[key]["mean"]],
                f"{good} is better",
            )
    kl = found["kl"]
    yield "latent KL, nats", kl["model"], [kl["copy"], kl["mean"]], "lower is better"
    rmse = found["reward"]["rmse"]
    yield "reward error (RMSE)", rmse["model"], [rmse["copy"], rmse["mean"]], "lower is better"
    alike = found["reward"]["correlation"]
    yield "reward correlation", alike["model"], [alike["copy"]], "1 is best"
    brier = found["continuation"]["brier"]
    yield "continuation (Brier)", brier["model"], [brier["copy"], brier["mean"]], "lower is better"
    yield (
        "off by (calibration)",
        found["continuation"]["calibration_error_by_horizon"],
        [],
        "0 is honest",
    )
    if "probe" in found:
        means = [[mean_known(row) for row in found["probe"][k]] for k in ("open_loop", "copy")]
        yield "state read off, R^2", means[0], [means[1]], "1 is all of it, 0 nothing"


def _row(name: str, own: list, beside: list[list], good: str, at: list[int]) -> tuple[str, ...]:
    cells = []
    for h in at:
        others = " ".join(_number(other[h - 1]) for other in beside)
        cells.append(_number(own[h - 1]) + (f" ({others})" if beside else ""))
    return name, *cells, good


def singles(found: dict[str, Any]) -> list[str]:
    """What has one number for all horizons, a line each."""
    lines = []
    kl, f = found["kl"], found["features"]
    lines.append(
        f"latent KL where every frame is seen: {_number(kl['closed_loop'])}; no dream is "
        f"expected to stay below it"
    )
    error = found["continuation"]["calibration_error"]
    lines.append(
        f"continuation is off by {_number(error)} over all steps (calibration error; 0 is honest)"
    )
    lines.append(
        f"features: effective rank {f['posterior/rank']:.1f} of {f['size']}, std "
        f"{f['posterior/std']:.3f}; dreams at "
        f"the last step {f['open_loop/rank']:.1f} and {f['open_loop/std']:.3f}; near 1 or 0 "
        f"they have collapsed"
    )
    if "probe" in found:
        share = mean_known(found["probe"]["posterior"])
        lines.append(
            f"state read off what is believed: R^2 {_number(share)}; 1 is all of it, 0 nothing"
        )
    if "sensitivity" in found:
        s = found["sensitivity"]
        ends = [
            f"{_number(s[k][0])} to {_number(s[k][-1])}" for k in ("agreement", "shuffled", "gain")
        ]
        lines.append(
            f"action sensitivity from step 1 to {len(s['gain'])}: {ends[0]}, 1 is right; with "
            f"shuffled actions "
            f"{ends[1]}, 0 is right, give or take {_number(s['chance'][0])} that so few plans "
            f"leave to chance; "
            f"size of differences {ends[2]}, 1 is right"
        )
    if "plans" in found:
        lines += _plans(found["plans"])
    if "policies" in found:
        lines += _policies(found["policies"])
    return lines


def reaches(x: dict[str, Any]) -> list[str]:
    """How far dreams are of use, in words."""
    curves = {"pictures": x.get("mse"), "rewards": x["reward"]["rmse"]}
    return [
        _reach(name, ahead(curve), len(curve["model"])) for name, curve in curves.items() if curve
    ]


def ahead(curve: dict[str, list[float | None]]) -> int:
    """Up to which step the model is nearer to the truth than both guessers: until it is not,
    PATIENCE times.
    """
    own, *others = (curve[name] for name in ("model", "copy", "mean"))
    behind = [
        any(a is not None and b is not None and a >= b for b in row)
        for a, *row in zip(own, *others, strict=True)
    ]
    wait = min(PATIENCE, len(behind))
    return next(
        (h for h in range(len(behind) - wait + 1) if all(behind[h : h + wait])), len(behind)
    )


def _reach(name: str, steps: int, most: int) -> str:
    guessers = "both guessers (nothing changes; the mean)"
    if steps == 0:
        return f"Dreamt {name}: not nearer to the truth than {guessers}, from the first step on."
    until = f"at all {most} steps" if steps == most else f"up to step {steps} of {most}"
    return f"Dreamt {name}: nearer to the truth than {guessers} {until}."


def policies(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The name of each policy that was followed, its imagined and its real return, and the gap."""
    followed = found["policies"]["by_policy"] if "policies" in found else {}
    return [
        (name, *(_spread(x, word) for word in ("imagined", "real", "gap")))
        for name, x in followed.items()
    ]


def _policies(x: dict[str, Any]) -> list[str]:
    count = len(x["by_policy"])
    line = (
        f"imagined against real returns of {count} policies over {x['steps']} steps: rank "
        f"correlation "
        f"{_number(x['rank'])}, 1 is best; imagined minus real {_spread(x, 'gap')}, 0 is best"
    )
    return [line, *_few("policies were followed", x["starts"])]


def _few(what: str, starts: int) -> list[str]:
    return doubts(
        f"{what} from {'one start' if starts == 1 else f'{starts} starts'} (--starts)", starts
    )


def _spread(x: dict[str, Any], key: str) -> str:
    """A mean, and its interval where there is one."""
    low, high = x[f"{key}_low"], x[f"{key}_high"]
    return _number(x[key]) + (f" ({_number(low)} to {_number(high)})" if low is not None else "")


def _plans(plans: dict[str, Any]) -> list[str]:
    lines = [
        f"imagined against real returns: rank correlation {_number(plans['rank_within'])} among "
        f"plans from one "
        f"state, {_number(plans['rank_pooled'])} among all; 1 is best"
    ]
    for kind, x in plans["by_kind"].items():
        name = {"planner": "exploitation (the planner's own plans)"}.get(
            kind, f"optimism on {kind} plans"
        )
        lines.append(
            f"{name}: imagined {_number(x['imagined'])} minus real {_number(x['real'])} = "
            f"{_spread(x, 'gap')}; "
            "0 is best"
        )
    return [*lines, *_few("plans were tried", len(set(plans["start"])))]


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean of what is known."""
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


def _number(x: float | None) -> str:
    return "unknown" if x is None else f"{x:.3g}"
