"""How a run learnt: its configuration, its scores beside published ones, its losses."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from worldmodel.config import loading as configs
from worldmodel.config.schema import Config
from worldmodel.evaluation.report.gather import Seed, curve
from worldmodel.evaluation.report.glossary import LOSSES
from worldmodel.evaluation.report.html import code, command, folded, p, table
from worldmodel.evaluation.report.reference import Published, note, published
from worldmodel.evaluation.report.svg import MEAN, REFERENCES, Series, lines, thinned

SEED_KEY = "run.seed"
LOSS = "train/loss/"
# times as many frames as the run has, from which on what is published is not shown beside it
FAR = 2.0
ALSO = (
    "train/kl",
    "train/value",
    "train/entropy",
    "train/embed/std",
    "train/feat/std",
    "fps/frames",
)


def shown(value: object) -> str:
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def configuration(seeds: Sequence[Seed]) -> str:
    """What is not as by default comes first, then what differs among the seeds, then
    everything.
    """
    first = seeds[0].config
    changed = configs.differences(configs.parse([]), first)
    rows = [(key, shown(now), shown(was)) for key, (was, now) in changed.items()]
    parts = [table("what is not as by default", ("key", "here", "by default"), rows)]
    odd: dict[str, list[tuple[str, str, str, str]]] = {}
    for seed in seeds[1:]:
        for key, (one, other) in configs.differences(first, seed.config).items():
            if key != SEED_KEY:
                odd.setdefault(key, []).append(
                    (seeds[0].name, shown(one), seed.name, shown(other))
                )
    if odd:
        parts.append(
            p("These runs differ in more than their seeds: read their mean with care.", "lacking")
        )
        told = [
            (key, ", ".join(f"{b} here, {d} in {c}" for _, b, c, d in cases))
            for key, cases in odd.items()
        ]
        parts.append(table("what differs among the runs", ("key", "values"), told))
    parts.append(folded("every key, as it was written into the run", code(configs.to_yaml(first))))
    return "".join(parts)


def reproduce(config: Config) -> str:
    """The command that trains this again: everything that is not as by default, the task in any
    case.
    """
    changed = {
        key: now for key, (_, now) in configs.differences(configs.parse([]), config).items()
    }
    words = {"env.task": config.env.task, **changed}
    return "./wm train " + " ".join(
        f"--{key} {shlex.quote(configs.as_text(value))}" for key, value in words.items()
    )


def scores(seeds: Sequence[Seed], lacking: list[str]) -> str:
    """Returns by frames, every seed and their mean, beside what is published."""
    alone = len(seeds) == 1
    evaluated = [(seed, curve(seed.scores, "eval/score")) for seed in seeds]
    reach = max(seed.frames for seed in seeds)
    known = published(seeds[0].config.env.task, seeds[0].config.env.obs)
    name = (
        f"training episodes, {seeds[0].name}"
        if alone
        else "dots: training episodes, a colour each seed"
    )
    series = [
        Series(name, thinned(curve(seed.metrics, "episode/score")), i, dots=True, keyed=i == 0)
        for i, seed in enumerate(seeds)
    ]
    series += [evaluation(seed, i, alone) for i, (seed, _) in enumerate(evaluated)]
    if not alone:
        series.append(mean_of([points for _, points in evaluated]))
    series += [
        curve_of(method, REFERENCES[i], reach_of(known, reach)) for i, method in enumerate(known)
    ]
    drawn = lines("return of an episode, higher is better", series, "environment frames", base=0.0)
    parts = []
    if not any(points for _, points in evaluated):
        lacking.append(
            f"no evaluation yet: {command(seeds[0].path, '')} plays episodes with what there is"
        )
        parts.append(p(lacking[-1], "lacking"))
    else:
        rows = [last_row(seed) for seed, points in evaluated if points]
        parts.append(last(rows))
    shown = f'<div class="large">{drawn}</div>' if drawn else ""
    beside = f'<div class="{"beside" if alone else ""}">{shown}<div>{"".join(parts)}</div></div>'
    return beside + "".join(compared(seeds, known, reach))


def last(rows: Sequence[tuple[str, ...]]) -> str:
    """The last evaluations: of several seeds a row each, of one so narrow that it stands beside
    the plot.
    """
    head = ("run", "frames", "mean return", "95 % interval", "episodes", "where")
    if len(rows) == 1:
        numbers = list(zip(head[1:-1], rows[0][1:-1], strict=True))
        return table("the last evaluation", ("", rows[0][0]), numbers) + p(rows[0][-1], "soft")
    return table("the last evaluation of each seed", head, rows)


def evaluation(seed: Seed, style: int, alone: bool) -> Series:
    """One seed's evaluations; with its interval where no other's lie in the way."""
    rows = [x for x in seed.scores if "eval/score" in x]
    points = curve(rows, "eval/score")
    low, high = (
        [y for _, y in curve(rows, f"eval/score_{end}")] if alone else []
        for end in ("low", "high")
    )
    whole = len(low) == len(high) == len(points)
    return Series(
        f"evaluation, {seed.name}",
        points,
        style,
        thin=not alone,
        low=low * whole,
        high=high * whole,
    )


def mean_of(curves: Sequence[list[tuple[float, float]]]) -> Series:
    """The seeds' mean where all were evaluated, in a band from the lowest to the highest."""
    tables = [dict(points) for points in curves]
    at = sorted(set.intersection(*(set(t) for t in tables)))
    columns = [[t[x] for t in tables] for x in at]
    means = [(x, sum(c) / len(c)) for x, c in zip(at, columns, strict=True)]
    low, high = [min(c) for c in columns], [max(c) for c in columns]
    return Series("mean of the seeds, lowest to highest", means, MEAN, low=low, high=high)


def reach_of(known: Sequence[Published], reach: int) -> int:
    """How far what is published is drawn: about as far as the run has come, in any case to the
    first there is.
    """
    return max([round(1.06 * reach), *(sorted(method.frames[0] for method in known)[:1])])


def curve_of(method: Published, style: str, reach: int) -> Series:
    inside = [k for k, frames in enumerate(method.frames) if frames <= reach]
    points = [(float(method.frames[k]), method.mean[k]) for k in inside]
    low, high = ([method.mean[k] + sign * method.std[k] for k in inside] for sign in (-1, 1))
    short = method.name.partition(",")[0]  # a single point shows no line to tell it by
    return Series(
        method.name, points, style, low=low, high=high, labels=[short] * (len(points) == 1)
    )


def last_row(seed: Seed) -> tuple[str, ...]:
    x = next(line for line in reversed(seed.scores) if "eval/score" in line)
    ends = [x.get("eval/score_low"), x.get("eval/score_high")]
    interval = " to ".join("unknown" if y is None else f"{y:.1f}" for y in ends)
    numbers = (
        f"{x['frames']:,}",
        f"{x['eval/score']:.1f}",
        interval,
        str(x.get("eval/episodes", "unknown")),
    )
    return seed.name, *numbers, str(seed.path)


def compared(seeds: Sequence[Seed], known: Sequence[Published], reach: int) -> list[str]:
    """Published numbers in words, with what keeps them from being the same measurement."""
    env = seeds[0].config.env
    if not known:
        return [p(f"No published score is known for {env.task} seen as {env.obs}.", "soft")]
    rows, at, far = [], [], []
    for method in known:
        k = min(range(len(method.frames)), key=lambda k: abs(method.frames[k] - reach))
        numbers = [f"{method.frames[k]:,}", f"{method.mean[k]:.0f}", f"{method.std[k]:.0f}"]
        if method.frames[k] > FAR * reach and method.frames[k] > min(m.frames[0] for m in known):
            far.append(f"{method.name} ({numbers[0]})")
            continue
        rows.append((method.name, *numbers, method.seeds, method.repeat, method.source))
        at.append(numbers[0])
    head = ("method", "frames", "mean return", "std over seeds", "seeds", "action repeat", "from")
    where = at[0] if len(set(at)) == 1 else "a different one for each method"
    caption = (
        f"published, at the nearest number of frames, {where}; this run has reached {reach:,}"
    )
    beyond = (
        f" Left out, as what is published begins far beyond this run's frames: {', '.join(far)}."
        if far
        else ""
    )
    return [table(caption, head, rows), p(note(env, known) + beyond, "soft")]


def _meaning(names: Sequence[str]) -> str:
    """Of one number in a line, of several that are the same a line with each one's name."""
    told = [(name, LOSSES[name]) for name in names if name in LOSSES]
    return "; ".join(f"{name}: {meaning}" if len(names) > 1 else meaning for name, meaning in told)


def losses(seeds: Sequence[Seed], lacking: list[str]) -> str:
    """One small plot for every loss and a few other numbers, all seeds in each."""
    keys = dict.fromkeys(
        k for seed in seeds for line in seed.metrics for k in line if k.startswith(LOSS)
    )
    alike: dict[
        str, tuple[list[str], list[Series]]
    ] = {}  # what is the same everywhere is drawn once
    for key in [*keys, *ALSO]:
        series = [
            Series(seed.name, thinned(curve(seed.metrics, key)), i) for i, seed in enumerate(seeds)
        ]
        names, _ = alike.setdefault(repr([s.points for s in series]), ([], series))
        names.append(key.removeprefix("train/"))
    drawn = [
        lines(
            " = ".join(names),
            series,
            "environment frames",
            log=True,
            note=_meaning(names),
        )
        for names, series in alike.values()
    ]
    if not any(drawn):
        lacking.append("no losses yet: there is no line in metrics.jsonl; train it further")
        return p(lacking[-1], "lacking")
    words = p(
        "Losses before their weights, averaged between log lines; an axis that spans a factor "
        "of 30 is logarithmic. "
        "Numbers that are the same throughout are drawn once. Equations: docs/algorithms.md.",
        "soft",
    )
    return words + f'<div class="plots">{"".join(drawn)}</div>'
