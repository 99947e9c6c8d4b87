"""Plots as SVG inside the page: lines with bands and dots, and bars; colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 10, 40
MOST_POINTS = 200
STYLES = 6  # colours and dashes that the page's style has
WIDE = 30.0  # a span beyond which positive numbers are drawn by their logarithm

Point = tuple[float, float]


@dataclass
class Series:
    """A line, or `dots`, in one of the page's styles; `low` and `high` are the edges of a band around it."""

    name: str
    points: list[Point]
    style: int = 0
    dots: bool = False
    thin: bool = False
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


class Axis:
    """Numbers to places between two ends."""

    def __init__(self, numbers: Sequence[float], start: float, end: float, log: bool = False):
        low, high = min(numbers), max(numbers)
        self.log = log and low > 0
        if self.log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.start, self.end = low, high, start, end

    def at(self, x: float) -> float:
        share = ((math.log10(x) if self.log else x) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            step = math.ceil((self.high - self.low) / 5)
            leading = (1, 2, 5) if self.high - self.low < 2 else (1,)
            powers = [k for k in range(math.floor(self.low), math.ceil(self.high) + 1) if k % step == 0]
            return [m * 10.0**k for k in powers for m in leading if self.low <= math.log10(m * 10.0**k) <= self.high]
        rough = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


def short(x: float) -> str:
    """A number for an axis: 40000 -> 40k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= 10 * size or (abs(x) >= size and x % (size / 10) == 0):
            return f"{x / size:.4g}{letter}"
    return f"{x:.3g}"


def thinned(points: list[Point]) -> list[Point]:
    """Means of neighbours, so that a long run stays a small file."""
    group = math.ceil(len(points) / MOST_POINTS)
    parts = [points[i : i + group] for i in range(0, len(points), max(1, group))]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def lines(title: str, series: Sequence[Series], x_name: str, log: bool = False, base: float | None = None) -> str:
    """A figure with its title, a key where there is more than one line, and what it shows in words.

    Where all numbers are above `base` the axis begins there.
    """
    series = [s for s in series if s.points]
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for y in [*(y for _, y in s.points), *s.low, *s.high]]
    if not ys:
        return ""
    steep = log and min(ys) > 0 and max(ys) / min(ys) > WIDE
    across, up = (
        Axis(xs, LEFT, WIDTH - RIGHT),
        Axis([*ys, min(ys) if base is None else base], HEIGHT - BOTTOM, TOP, steep),
    )
    marks = [_band(s, across, up) + _marks(s, across, up) for s in series]
    ends = "; ".join(f"{s.name} ends at {s.points[-1][1]:.3g}" for s in series if not s.dots)
    words = f"{title} by {x_name}. {ends}."
    keys = "".join(f'<span class="entry">{_key(s)}{escape(s.name)}</span>' for s in series) if len(series) > 1 else ""
    caption = f"<figcaption><b>{escape(title)}</b>{keys}</figcaption>"
    return f'<figure class="plot">{caption}{_frame(words, _grid(across, up, x_name) + "".join(marks))}</figure>'


def bars(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Bars from the top down, each (name, value, low, high) with the interval as a line."""
    tall = 22 * len(rows) + 34
    axis = Axis([0.0, *(x for _, *numbers in rows for x in numbers)], LEFT + 110, WIDTH - RIGHT - 8)
    parts = [_tick(axis.at(t), TOP, tall - 24, short(t)) for t in axis.ticks()]
    for i, (name, value, low, high) in enumerate(rows):
        y = TOP + 22 * i
        begin, width = min(axis.at(0), axis.at(value)), abs(axis.at(value) - axis.at(0))
        parts.append(f'<text x="{LEFT + 102}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{begin:.1f}" y="{y + 2}" width="{width:.1f}" height="16"/>')
        parts.append(f'<path class="whisker" d="M{axis.at(low):.1f},{y + 10}H{axis.at(high):.1f}"/>')
    words = f"{title}: " + "; ".join(f"{name} {value:.4g}" for name, value, *_ in rows)
    caption = f"<figcaption><b>{escape(title)}</b></figcaption>"
    return f'<figure class="plot">{caption}{_frame(words, "".join(parts), tall)}</figure>'


def _frame(words: str, inside: str, tall: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="{escape(words)}">{inside}</svg>'


def _grid(across: Axis, up: Axis, x_name: str) -> str:
    rows = [
        f'<path class="grid" d="M{LEFT},{up.at(t):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{up.at(t) + 4:.1f}" text-anchor="end">{short(t)}</text>'
        for t in up.ticks()
    ]
    columns = [_tick(across.at(t), TOP, HEIGHT - BOTTOM, short(t)) for t in across.ticks()]
    name = f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
    return "".join([*rows, *columns, name])


def _tick(x: float, top: float, bottom: float, text: str) -> str:
    label = f'<text x="{x:.1f}" y="{bottom + 15:.0f}" text-anchor="middle">{text}</text>'
    return f'<path class="grid" d="M{x:.1f},{top}V{bottom:.0f}"/>{label}'


def _marks(s: Series, across: Axis, up: Axis) -> str:
    places = [(across.at(x), up.at(y)) for x, y in s.points]
    if s.dots or len(places) == 1:
        return "".join(f'<circle class="c{s.style % STYLES}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in places)
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<path class="line c{s.style % STYLES}{" thin" * s.thin}" d="{path}"/>'


def _band(s: Series, across: Axis, up: Axis) -> str:
    if len(s.low) != len(s.points) or len(s.points) < 2:
        return ""
    there = [f"{across.at(x):.1f},{up.at(y):.1f}" for (x, _), y in zip(s.points, s.high, strict=True)]
    back = [f"{across.at(x):.1f},{up.at(y):.1f}" for (x, _), y in zip(s.points, s.low, strict=True)]
    return f'<path class="band c{s.style % STYLES}" d="M{"L".join([*there, *reversed(back)])}Z"/>'


def _key(s: Series) -> str:
    mark = '<circle class="c{}" cx="14" cy="6" r="3"/>' if s.dots else '<path class="line c{}" d="M0,6H28"/>'
    return f'<svg class="mark" viewBox="0 0 28 12" aria-hidden="true">{mark.format(s.style % STYLES)}</svg>'
