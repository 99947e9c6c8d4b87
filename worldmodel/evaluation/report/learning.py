"""How a run learnt: its configuration, its scores beside published ones, its losses."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from worldmodel import config as configs
from worldmodel.evaluation.report.gather import Seed, curve
from worldmodel.evaluation.report.html import code, command, folded, p, table
from worldmodel.evaluation.report.reference import published
from worldmodel.evaluation.report.svg import Series, lines, thinned
from worldmodel.schema import Config

SEED_KEY = "run.seed"
LOSS = "train/loss/"
ALSO = ("train/kl", "train/value", "train/entropy", "train/embed/std", "train/feat/std", "fps/frames")
MEAN_STYLE, PUBLISHED_STYLE = 0, 4  # what is published is drawn in the last styles


def shown(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def configuration(seeds: Sequence[Seed]) -> str:
    """What is not as by default comes first, then what differs among the seeds, then everything."""
    first = seeds[0].config
    changed = configs.differences(configs.parse([]), first)
    rows = [(key, shown(now), shown(was)) for key, (was, now) in changed.items()]
    parts = [table("what is not as by default", ("key", "here", "by default"), rows)]
    odd: dict[str, list[tuple[str, str, str, str]]] = {}
    for seed in seeds[1:]:
        for key, (one, other) in configs.differences(first, seed.config).items():
            if key != SEED_KEY:
                odd.setdefault(key, []).append((seeds[0].name, shown(one), seed.name, shown(other)))
    if odd:
        parts.append(p("These runs differ in more than their seeds: read their mean with care.", "lacking"))
        told = [(key, ", ".join(f"{b} here, {d} in {c}" for _, b, c, d in cases)) for key, cases in odd.items()]
        parts.append(table("what differs among the runs", ("key", "values"), told))
    parts.append(folded("every key, as it was written into the run", code(configs.to_yaml(first))))
    return "".join(parts)


def reproduce(config: Config) -> str:
    """The command that trains this again: everything that is not as by default, the task in any case."""
    changed = {key: now for key, (_, now) in configs.differences(configs.parse([]), config).items()}
    words = {"env.task": config.env.task, **changed}
    return "./wm train " + " ".join(f"--{key} {shlex.quote(configs.as_text(value))}" for key, value in words.items())


def scores(seeds: Sequence[Seed], lacking: list[str]) -> str:
    """Returns by frames, every seed and their mean, beside what is published."""
    evaluated = [(seed, curve(seed.scores, "eval/score")) for seed in seeds]
    reach = max(seed.frames for seed in seeds)
    series = [
        Series(f"training episodes, {seed.name}", thinned(curve(seed.metrics, "episode/score")), i, dots=True)
        for i, seed in enumerate(seeds)
    ]
    series += [evaluation(seed, points, i, alone=len(seeds) == 1) for i, (seed, points) in enumerate(evaluated)]
    if len(seeds) > 1:
        series.append(mean_of([points for _, points in evaluated]))
    known = published(seeds[0].config.env.task, seeds[0].config.env.obs)
    for i, method in enumerate(known):
        inside = [k for k, frames in enumerate(method.frames) if frames <= reach]
        points = [(float(method.frames[k]), method.mean[k]) for k in inside]
        low, high = ([method.mean[k] + sign * method.std[k] for k in inside] for sign in (-1, 1))
        series.append(Series(method.name, points, PUBLISHED_STYLE + i, low=low, high=high))
    drawn = lines("return of an episode, higher is better", series, "environment frames", base=0.0)
    parts = [f'<div class="large">{drawn}</div>' if drawn else ""]
    if not any(points for _, points in evaluated):
        lacking.append(f"no evaluation yet: {command(seeds[0].path, '')} plays episodes with what there is")
        parts.append(p(lacking[-1], "lacking"))
    else:
        head = ("run", "frames", "mean return", "95 % interval", "episodes", "where")
        rows = [last_row(seed) for seed, points in evaluated if points]
        parts.append(table("the last evaluation of each seed", head, rows))
    parts += compared(seeds, reach)
    return "".join(parts)


def evaluation(seed: Seed, points: list[tuple[float, float]], style: int, alone: bool) -> Series:
    """One seed's evaluations; with its interval where no other's lie in the way."""
    low, high = ([y for _, y in curve(seed.scores, f"eval/score_{end}")] for end in ("low", "high"))
    low, high = (low, high) if alone else ([], [])
    return Series(f"evaluation, {seed.name}", points, style, thin=not alone, low=low, high=high)


def mean_of(curves: Sequence[list[tuple[float, float]]]) -> Series:
    """The seeds' mean where all were evaluated, in a band from the lowest to the highest."""
    tables = [dict(points) for points in curves]
    at = sorted(set.intersection(*(set(t) for t in tables)))
    columns = [[t[x] for t in tables] for x in at]
    means = [(x, sum(c) / len(c)) for x, c in zip(at, columns, strict=True)]
    low, high = [min(c) for c in columns], [max(c) for c in columns]
    return Series("mean of the seeds, lowest to highest", means, MEAN_STYLE, low=low, high=high)


def last_row(seed: Seed) -> tuple[str, ...]:
    x = next(line for line in reversed(seed.scores) if isinstance(line.get("eval/score"), int | float))
    ends = [x.get("eval/score_low"), x.get("eval/score_high")]
    interval = " to ".join("unknown" if y is None else f"{y:.1f}" for y in ends)
    numbers = (f"{x['frames']:,}", f"{x['eval/score']:.1f}", interval, str(x.get("eval/episodes", "unknown")))
    return seed.name, *numbers, str(seed.path)


def compared(seeds: Sequence[Seed], reach: int) -> list[str]:
    """Published numbers in words, with what keeps them from being the same measurement."""
    env = seeds[0].config.env
    known = published(env.task, env.obs)
    if not known:
        return [p(f"No published score is known for {env.task} seen as {env.obs}.", "soft")]
    rows = []
    for method in known:
        inside = [k for k, frames in enumerate(method.frames) if frames <= reach] or [0]
        k = inside[-1]
        numbers = [f"{method.frames[k]:,}", f"{method.mean[k]:.0f}", f"{method.std[k]:.0f}"]
        rows.append((method.name, *numbers, method.seeds, method.repeat, method.source))
    head = ("method", "frames", "mean return", "std over seeds", "seeds", "action repeat", "from")
    note = (f"Published runs see the task's standard picture with action repeat {known[0].repeat}; this run: renderer "
            f"{env.render}, repeat {env.repeat}. DreamerV3's numbers are those of training episodes.")  # fmt: skip
    return [table("published, at the last number of frames that this run has reached", head, rows), p(note, "soft")]


def losses(seeds: Sequence[Seed], lacking: list[str]) -> str:
    """One small plot for every loss and a few other numbers, all seeds in each."""
    keys = dict.fromkeys(k for seed in seeds for line in seed.metrics for k in line if k.startswith(LOSS))
    drawn = []
    for key in [*keys, *ALSO]:
        series = [Series(seed.name, thinned(curve(seed.metrics, key)), i) for i, seed in enumerate(seeds)]
        drawn.append(lines(key.removeprefix("train/"), series, "environment frames", log=True))
    if not any(drawn):
        lacking.append("no losses yet: there is no line in metrics.jsonl; train it further")
        return p(lacking[-1], "lacking")
    words = p(
        "Losses before their weights, averaged between log lines; an axis that spans a factor of 30 is logarithmic.",
        "soft",
    )
    return words + f'<div class="plots">{"".join(drawn)}</div>'
