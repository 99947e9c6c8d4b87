"""The report's sections on learning: scores beside published ones, losses, configuration."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from worldmodel.config import loading as configs
from worldmodel.config.schema import Config
from worldmodel.evaluation.report.glossary import LOSS_NOTES
from worldmodel.evaluation.report.html import (
    format_command,
    render_code,
    render_details,
    render_paragraph,
    render_table,
)
from worldmodel.evaluation.report.reference import (
    PublishedScores,
    describe_setting,
    load_published_scores,
)
from worldmodel.evaluation.report.reported_run import ReportedRun, extract_curve
from worldmodel.evaluation.report.svg import MEAN, REFERENCES, Series, plot_lines, thin_points
from worldmodel.system.console import PROGRAM

SEED_KEY = "run.seed"
LOSS_PREFIX = "train/loss/"
# Published scores at more than this many times the run's frames are left out of the table.
FAR_BEYOND = 2.0
OTHER_KEYS = (
    "train/kl",
    "train/value",
    "train/entropy",
    "train/embed/std",
    "train/feat/std",
    "fps/frames",
)


def format_value(value: object) -> str:
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def render_configuration(runs: Sequence[ReportedRun]) -> str:
    """The keys that differ from the defaults, those that differ between runs, then all keys."""
    first = runs[0].config
    changed = configs.find_differences(configs.parse([]), first)
    rows = [(key, format_value(now), format_value(was)) for key, (was, now) in changed.items()]
    parts = [render_table("keys that differ from the defaults", ("key", "here", "default"), rows)]
    odd: dict[str, list[tuple[str, str, str, str]]] = {}
    for run in runs[1:]:
        for key, (one, other) in configs.find_differences(first, run.config).items():
            if key != SEED_KEY:
                odd.setdefault(key, []).append(
                    (runs[0].name, format_value(one), run.name, format_value(other))
                )
    if odd:
        parts.append(
            render_paragraph(
                "These runs differ in more than their seeds: interpret their mean with care.",
                "missing",
            )
        )
        differing = [
            (key, ", ".join(f"{b} here, {d} in {c}" for _, b, c, d in cases))
            for key, cases in odd.items()
        ]
        parts.append(render_table("keys that differ between runs", ("key", "values"), differing))
    parts.append(
        render_details("all keys, from the run's config.yaml", render_code(configs.to_yaml(first)))
    )
    return "".join(parts)


def format_train_command(config: Config) -> str:
    """The command that trains this again: the task and every key that is not the default."""
    changed = {
        key: now for key, (_, now) in configs.find_differences(configs.parse([]), config).items()
    }
    changed = {"env.task": config.env.task, **changed}
    return f"{PROGRAM} train " + " ".join(
        f"--{key} {shlex.quote(configs.format_value(value))}" for key, value in changed.items()
    )


def render_scores(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    """Returns over frames: every run, their mean and published scores."""
    alone = len(runs) == 1
    evaluated = [(run, extract_curve(run.scores, "eval/score")) for run in runs]
    reach = max(run.frames for run in runs)
    known = load_published_scores(runs[0].config.env.task, runs[0].config.env.obs)
    name = (
        f"training episodes, {runs[0].name}"
        if alone
        else "dots: training episodes, one colour per seed"
    )
    series = [
        Series(
            name,
            thin_points(extract_curve(run.metrics, "episode/score")),
            i,
            dots=True,
            in_legend=i == 0,
        )
        for i, run in enumerate(runs)
    ]
    series += [make_evaluation_series(run, i, alone) for i, (run, _) in enumerate(evaluated)]
    if not alone:
        series.append(make_mean_series([points for _, points in evaluated]))
    series += [
        make_published_series(method, REFERENCES[i], find_published_reach(known, reach))
        for i, method in enumerate(known)
    ]
    plot = plot_lines(
        "return of an episode, higher is better", series, "environment frames", base=0.0
    )
    parts = []
    if not any(points for _, points in evaluated):
        missing.append(
            f"no evaluation yet: {format_command(runs[0].path, '')} evaluates the newest checkpoint"
        )
        parts.append(render_paragraph(missing[-1], "missing"))
    else:
        rows = [format_last_row(run) for run, points in evaluated if points]
        parts.append(render_last_evaluations(rows))
    curves = f'<div class="large">{plot}</div>' if plot else ""
    beside = f'<div class="{"beside" if alone else ""}">{curves}<div>{"".join(parts)}</div></div>'
    return beside + "".join(render_published_scores(runs, known, reach))


def render_last_evaluations(rows: Sequence[tuple[str, ...]]) -> str:
    """The last evaluations: a row per run, or for one run a narrow table beside the plot."""
    head = ("run", "frames", "mean return", "95 % interval", "episodes", "where")
    if len(rows) == 1:
        numbers = list(zip(head[1:-1], rows[0][1:-1], strict=True))
        return render_table("the last evaluation", ("", rows[0][0]), numbers) + render_paragraph(
            rows[0][-1], "soft"
        )
    return render_table("the last evaluation of each seed", head, rows)


def make_evaluation_series(run: ReportedRun, style: int, alone: bool) -> Series:
    """One run's evaluations; with intervals if it is the only run."""
    rows = [x for x in run.scores if "eval/score" in x]
    points = extract_curve(rows, "eval/score")
    low, high = (
        [y for _, y in extract_curve(rows, f"eval/score_{end}")] if alone else []
        for end in ("low", "high")
    )
    whole = len(low) == len(high) == len(points)
    return Series(
        f"evaluation, {run.name}",
        points,
        style,
        thin=not alone,
        low=low * whole,
        high=high * whole,
    )


def make_mean_series(curves: Sequence[list[tuple[float, float]]]) -> Series:
    """The mean over runs at frames where all were evaluated; the band spans lowest to highest."""
    tables = [dict(points) for points in curves]
    at = sorted(set.intersection(*(set(t) for t in tables)))
    columns = [[t[x] for t in tables] for x in at]
    means = [(x, sum(c) / len(c)) for x, c in zip(at, columns, strict=True)]
    low, high = [min(c) for c in columns], [max(c) for c in columns]
    return Series("mean of the seeds, band: lowest to highest", means, MEAN, low=low, high=high)


def find_published_reach(known: Sequence[PublishedScores], reach: int) -> int:
    """The last frame to plot of published curves: about the run's, at least their first point."""
    return max([round(1.06 * reach), *(sorted(method.frames[0] for method in known)[:1])])


def make_published_series(method: PublishedScores, style: str, reach: int) -> Series:
    inside = [k for k, frames in enumerate(method.frames) if frames <= reach]
    points = [(float(method.frames[k]), method.mean[k]) for k in inside]
    low, high = ([method.mean[k] + sign * method.std[k] for k in inside] for sign in (-1, 1))
    short = method.name.partition(",")[0]  # a single point has no line style: label it
    return Series(
        method.name, points, style, low=low, high=high, labels=[short] * (len(points) == 1)
    )


def format_last_row(run: ReportedRun) -> tuple[str, ...]:
    x = next(line for line in reversed(run.scores) if "eval/score" in line)
    ends = [x.get("eval/score_low"), x.get("eval/score_high")]
    interval = " to ".join("unknown" if y is None else f"{y:.1f}" for y in ends)
    numbers = (
        f"{x['frames']:,}",
        f"{x['eval/score']:.1f}",
        interval,
        str(x.get("eval/episodes", "unknown")),
    )
    return run.name, *numbers, str(run.path)


def render_published_scores(
    runs: Sequence[ReportedRun], known: Sequence[PublishedScores], reach: int
) -> list[str]:
    """A table of published scores, and how their measurements differ from this run's."""
    env = runs[0].config.env
    if not known:
        return [
            render_paragraph(
                f"No published score is known for {env.task} with env.obs {env.obs}.", "soft"
            )
        ]
    rows, at, far = [], [], []
    for method in known:
        k = min(range(len(method.frames)), key=lambda k: abs(method.frames[k] - reach))
        numbers = [f"{method.frames[k]:,}", f"{method.mean[k]:.0f}", f"{method.std[k]:.0f}"]
        if method.frames[k] > FAR_BEYOND * reach and method.frames[k] > min(
            m.frames[0] for m in known
        ):
            far.append(f"{method.name} ({numbers[0]})")
            continue
        rows.append((method.name, *numbers, method.seeds, method.repeat, method.source))
        at.append(numbers[0])
    head = ("method", "frames", "mean return", "std over seeds", "seeds", "action repeat", "from")
    where = at[0] if len(set(at)) == 1 else "a different one for each method"
    caption = f"published, at the nearest number of frames, {where}; this run has {reach:,}"
    beyond = (
        f" Left out, because they begin far beyond this run's frames: {', '.join(far)}."
        if far
        else ""
    )
    return [
        render_table(caption, head, rows),
        render_paragraph(describe_setting(env, known) + beyond, "soft"),
    ]


def _explain_losses(names: Sequence[str]) -> str:
    """The explanation of a loss, or of several losses with equal curves."""
    # The loss image/NAME of one picture of several is explained as image is.
    kinds = {name: "/".join(name.split("/")[:2]) for name in names}
    notes = [(name, LOSS_NOTES[kinds[name]]) for name in names if kinds[name] in LOSS_NOTES]
    return "; ".join(f"{name}: {note}" if len(names) > 1 else note for name, note in notes)


def render_losses(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    """A small plot of every loss and a few other numbers, all runs in each."""
    keys = dict.fromkeys(
        k for run in runs for line in run.metrics for k in line if k.startswith(LOSS_PREFIX)
    )
    alike: dict[str, tuple[list[str], list[Series]]] = {}  # equal curves are drawn once
    for key in [*keys, *OTHER_KEYS]:
        series = [
            Series(run.name, thin_points(extract_curve(run.metrics, key)), i)
            for i, run in enumerate(runs)
        ]
        names, _ = alike.setdefault(repr([s.points for s in series]), ([], series))
        names.append(key.removeprefix("train/"))
    drawn = [
        plot_lines(
            " = ".join(names),
            series,
            "environment frames",
            log=True,
            note=_explain_losses(names),
        )
        for names, series in alike.values()
    ]
    if not any(drawn):
        missing.append("no losses yet: metrics.jsonl is empty; train it further")
        return render_paragraph(missing[-1], "missing")
    about = render_paragraph(
        "Losses are unweighted and averaged between log lines. An axis that spans more than a "
        "factor of 30 is logarithmic. Equal curves are drawn once. Equations: docs/algorithms.md.",
        "soft",
    )
    return about + f'<div class="plots">{"".join(drawn)}</div>'
