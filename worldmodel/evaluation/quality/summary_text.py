"""The results of eval.py model as text; 95 % intervals are in brackets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from worldmodel.evaluation.quality.useful_horizon import find_useful_horizon
from worldmodel.rollout.statistics import warn_few_values

BASELINES_NOTE = "in brackets: the baselines copy, mean"


def format_summary(found: dict[str, Any], left_out: Sequence[str]) -> str:
    """A table over horizons, then single numbers; `found` is the content of model.json."""
    steps = ", ".join(str(h) for h in choose_horizons(found))
    lines = [f"open loop, at {steps} steps after the last seen frame ({BASELINES_NOTE})"]
    lines += [
        f"  {name:<22}{'  '.join(f'{cell:<28}' for cell in cells)}  {good}"
        for name, *cells, good in format_rows(found)
    ]
    lines += [f"  {line}" for line in (*describe_useful_horizons(found), *format_scalars(found))]
    lines += [
        f"    {name:<28}imagined {imagined}; real {real}; gap {gap}"
        for name, imagined, real, gap in format_policies(found)
    ]
    return "\n".join([*lines, *format_omissions(left_out)])


def choose_horizons(found: dict[str, Any]) -> list[int]:
    """The first, the middle and the last step."""
    reach = len(found["windows"])
    return list(dict.fromkeys((1, (reach + 1) // 2, reach)))


def format_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """For each curve its name, a cell for each of `choose_horizons`, and which way is better."""
    return [
        _format_row(name, own, others, good, choose_horizons(found))
        for name, own, others, good in _iterate_curves(found)
    ]


def format_omissions(left_out: Sequence[str]) -> list[str]:
    return [f"left out: {line}" for line in left_out]


def _iterate_curves(found: dict[str, Any]) -> Iterator[tuple[str, list, list[list], str]]:
    """For each curve its name, the model's values, the baselines', and which way is better."""
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
        "calibration error",
        found["continuation"]["calibration_error_by_horizon"],
        [],
        "0 is best",
    )
    if "probe" in found:
        means = [[average_known(row) for row in found["probe"][k]] for k in ("open_loop", "copy")]
        yield "simulator state, R^2", means[0], [means[1]], "1 is best"


def _format_row(
    name: str, own: list, others: list[list], good: str, at: list[int]
) -> tuple[str, ...]:
    cells = []
    for h in at:
        brackets = " ".join(_format_number(other[h - 1]) for other in others)
        cells.append(_format_number(own[h - 1]) + (f" ({brackets})" if others else ""))
    return name, *cells, good


def format_scalars(found: dict[str, Any]) -> list[str]:
    """A line for each result that is one number for all horizons."""
    lines = []
    kl, f = found["kl"], found["features"]
    lines.append(
        f"latent KL in closed loop: {_format_number(kl['closed_loop'])}, a lower bound for open "
        f"loop"
    )
    error = found["continuation"]["calibration_error"]
    lines.append(
        f"calibration error of continuation over all steps: {_format_number(error)}, 0 is best"
    )
    lines.append(
        f"features: effective rank {f['posterior/rank']:.1f} of {f['size']}, std "
        f"{f['posterior/std']:.3f}; in imagination at the last step {f['open_loop/rank']:.1f} and "
        f"{f['open_loop/std']:.3f}; a rank near 1 or a std near 0 means collapse"
    )
    if "probe" in found:
        share = average_known(found["probe"]["posterior"])
        lines.append(
            f"linear probe from the posterior to the simulator state: R^2 "
            f"{_format_number(share)}, 1 is best"
        )
    if "sensitivity" in found:
        s = found["sensitivity"]
        ends = [
            f"{_format_number(s[k][0])} to {_format_number(s[k][-1])}"
            for k in ("agreement", "shuffled", "gain")
        ]
        lines.append(
            f"action sensitivity from step 1 to {len(s['gain'])}: {ends[0]}, 1 is best; with "
            f"shuffled actions {ends[1]}, 0 is best (standard deviation by chance: "
            f"{_format_number(s['chance'][0])}); size of differences {ends[2]}, 1 is best"
        )
    if "plans" in found:
        lines += _describe_plans(found["plans"])
    if "policies" in found:
        lines += _describe_policies(found["policies"])
    return lines


def describe_useful_horizons(x: dict[str, Any]) -> list[str]:
    """A sentence on the useful horizon of pictures and of rewards."""
    curves = {"pictures": x.get("mse"), "rewards": x["reward"]["rmse"]}
    return [
        _describe_useful_horizon(name, count_useful_steps(curve), len(curve["model"]))
        for name, curve in curves.items()
        if curve
    ]


def count_useful_steps(curve: dict[str, list[float | None]]) -> int:
    """Steps before one of the baselines is as accurate as the model for several in a row."""
    horizon = find_useful_horizon(*(curve[name] for name in ("model", "copy", "mean")))
    return len(curve["model"]) if horizon is None else horizon - 1


def _describe_useful_horizon(name: str, steps: int, most: int) -> str:
    baselines = "both baselines (copy, mean)"
    if steps == 0:
        return f"Imagined {name} are no better than {baselines} from the first step on."
    until = f"at all {most} steps" if steps == most else f"up to step {steps} of {most}"
    return f"Imagined {name} are better than {baselines} {until}."


def format_policies(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """For each policy its name, imagined return, real return and their gap."""
    by_policy = found["policies"]["by_policy"] if "policies" in found else {}
    return [
        (name, *(_format_interval(x, key) for key in ("imagined", "real", "gap")))
        for name, x in by_policy.items()
    ]


def _describe_policies(x: dict[str, Any]) -> list[str]:
    count = len(x["by_policy"])
    line = (
        f"imagined against real returns of {count} policies over {x['steps']} steps: rank "
        f"correlation {_format_number(x['rank'])}, 1 is best; imagined minus real "
        f"{_format_interval(x, 'gap')}, 0 is best"
    )
    return [line, *_warn_few_starts("policies were run", x["starts"])]


def _warn_few_starts(what: str, starts: int) -> list[str]:
    return warn_few_values(
        f"{what} from {'one start' if starts == 1 else f'{starts} starts'} (--starts)", starts
    )


def _format_interval(x: dict[str, Any], key: str) -> str:
    """A mean with its interval, if there is one."""
    low, high = x[f"{key}_low"], x[f"{key}_high"]
    return _format_number(x[key]) + (
        f" ({_format_number(low)} to {_format_number(high)})" if low is not None else ""
    )


def _describe_plans(plans: dict[str, Any]) -> list[str]:
    lines = [
        f"imagined against real returns: rank correlation {_format_number(plans['rank_within'])} "
        f"among plans from one state, {_format_number(plans['rank_pooled'])} among all; 1 is best"
    ]
    for kind, x in plans["by_kind"].items():
        name = {"planner": "exploitation (the planner's own plans)"}.get(
            kind, f"optimism on {kind} plans"
        )
        lines.append(
            f"{name}: imagined {_format_number(x['imagined'])} minus real "
            f"{_format_number(x['real'])} = {_format_interval(x, 'gap')}; 0 is best"
        )
    return [*lines, *_warn_few_starts("plans were tried", len(set(plans["start"])))]


def average_known(values: Sequence[float | None]) -> float | None:
    """The mean of the known values, or None."""
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


def _format_number(x: float | None) -> str:
    return "unknown" if x is None else f"{x:.3g}"
