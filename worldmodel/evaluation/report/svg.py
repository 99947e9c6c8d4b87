"""Plots as SVG inside the page: lines with bands and dots, and bars; colours come from the page's
style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 60, 24, 10, 40
ROOM = 10  # between the axes and marks at their ends
LETTER = 7.0  # an average letter's width
MOST_POINTS = 200
STYLES = 6  # colours and dashes that the page's style has
MEAN, REFERENCES = "mean", ("r0", "r1", "r2", "r3", "r4")  # styles that no number gives
# Marks, where lines may be single points
SPOTS = (
    "m-3.4,0a3.4,3.4 0 1,0 6.8,0a3.4,3.4 0 1,0 -6.8,0",
    "m-3.2,-3.2h6.4v6.4h-6.4z",
    "m0,-4.5l4.2,7.5h-8.4z",
    "m0,-4.6l4.6,4.6l-4.6,4.6l-4.6,-4.6z",
    "m0,4.5l4.2,-7.5h-8.4z",
)
WIDE = 30.0  # a span beyond which positive numbers are drawn by their logarithm

Point = tuple[float, float]


@dataclass
class Series:
    """A line, or `dots`, in one of the page's styles; `low` and `high` are the edges of a band
    around it.

    `bars` makes the edges an interval at each point, which has a mark, `scales` times as large as
    others; `labels` are written beside the points. `mark` picks the shape of dots among SPOTS.
    """

    name: str
    points: list[Point]
    style: int | str = 0
    dots: bool = False
    thin: bool = False
    bars: bool = False
    mark: int | None = None
    keyed: bool = True
    scales: Sequence[float] = ()
    labels: Sequence[str] = ()
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
            room = 0.5 if self.log else 0.5 * max(1.0, 0.1 * abs(high))
            low, high = low - room, high + room
        self.low, self.high, self.start, self.end = low, high, start, end

    def at(self, x: float) -> float:
        share = ((math.log10(x) if self.log else x) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            step = math.ceil((self.high - self.low) / 5)
            leading = (1, 2, 5) if self.high - self.low < 2 else (1,)
            powers = [
                k for k in range(math.floor(self.low), math.ceil(self.high) + 1) if k % step == 0
            ]
            round_ = [m * 10.0**k for k in powers for m in leading]
            within = [x for x in round_ if self.low <= math.log10(x) <= self.high]
            return within if len(within) > 1 else _even(10**self.low, 10**self.high)
        return _even(self.low, self.high)


def _even(low: float, high: float) -> list[float]:
    """Round numbers at equal distances."""
    rough = (high - low) / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def kind(style: int | str) -> str:
    """A number's colour and dash, no two alike up to the square of STYLES; a name's are in the
    page's style.
    """
    if isinstance(style, str):
        return style
    return f"c{style % STYLES} d{(style + style // STYLES) % STYLES}"


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
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in parts
    ]


def lines(
    title: str,
    series: Sequence[Series],
    x_name: str,
    log: bool = False,
    base: float | None = None,
    floor: float | None = None,
    log_x: bool = False,
    note: str = "",
) -> str:
    """A figure with its title and a `note`, a key where there is more than one line, and what it
    shows in words.

    Where all numbers are above `base` the axis begins there; what lies below `floor` is off the
    figure, which says so.
    """
    series = [s for s in series if s.points]
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for y in [*(y for _, y in s.points), *s.low, *s.high]]
    if not ys:
        return ""
    steep = log and min(ys) > 0 and max(ys) / min(ys) > WIDE
    shown = [*ys, min(ys) if base is None else base]
    if floor is not None:
        shown = [max(y, floor) for y in shown]
    room = ROOM if any(s.bars or s.dots for s in series) else 0
    across = Axis(xs, LEFT + room, WIDTH - RIGHT - room, log_x)
    up = Axis(shown, HEIGHT - BOTTOM - room, TOP + room, steep)
    # Below all lines, which they would else hide
    marks = "".join(_labels(s, series, across, up) for s in series)
    marks += "".join(_band(s, across, up) + _marks(s, across, up) for s in series)
    ends = "; ".join(f"{s.name} ends at {s.points[-1][1]:.3g}" for s in series if not s.dots)
    words = f"{title} by {x_name}. {ends}."
    note = "; ".join(filter(None, (note, _deepest(series, floor))))
    keyed = [s for s in series if s.keyed] if len(series) > 1 else []
    keys = "".join(
        f'<span class="entry">{_key(s)}{escape(_keyed(s, floor))}</span>' for s in keyed
    )
    inside = _grid(across, up, x_name) + (marks if floor is None else _cut(marks))
    return (
        f"<figure "
        f'class="plot">{_caption(title, note)}{keys}</figcaption>{_frame(words, inside)}</figure>'
    )


def _deepest(series: Sequence[Series], floor: float | None) -> str:
    """How far down what is off the figure goes, and whose line it is."""
    least, name = min((y, s.name) for s in series for _, y in s.points)
    if floor is None or least >= floor:
        return ""
    return f"{name} goes down to {least:.3g}"


def _keyed(s: Series, floor: float | None) -> str:
    """A name for the key, which says where the line is nowhere to be seen."""
    hidden = floor is not None and all(y < floor for _, y in s.points)
    return f"{s.name} (all below {floor:g})" if hidden else s.name


def bars(
    title: str,
    rows: Sequence[tuple[str, float, float, float]],
    styles: Sequence[int | str] = (),
    note: str = "",
) -> str:
    """Bars from the top down, each (name, value, low, high) below its name, with the interval as a
    line.
    """
    tall = 38 * len(rows) + 34
    axis = Axis([0.0, *(x for _, *numbers in rows for x in numbers)], 16, WIDTH - RIGHT)
    parts = [_tick(axis.at(t), TOP, tall - 24, short(t)) for t in axis.ticks()]
    for i, (name, value, low, high) in enumerate(rows):
        y = TOP + 38 * i
        begin, width = min(axis.at(0), axis.at(value)), abs(axis.at(value) - axis.at(0))
        parts.append(f'<text class="name" x="16" y="{y + 12}">{escape(name)}: {value:.4g}</text>')
        own = f" {kind(styles[i])}" if styles else ""
        parts.append(
            f'<rect class="bar{own}" x="{begin:.1f}" y="{y + 17}" width="{width:.1f}" '
            f'height="14"/>'
        )
        parts.append(
            f'<path class="whisker" d="M{axis.at(low):.1f},{y + 24}H{axis.at(high):.1f}"/>'
        )
    words = f"{title}: " + "; ".join(f"{name} {value:.4g}" for name, value, *_ in rows)
    return (
        f"<figure "
        f'class="plot">{_caption(title, note)}</figcaption>{_frame(words, "".join(parts), tall)}</figure>'
    )


def _caption(title: str, note: str) -> str:
    told = f'<span class="note">{escape(note)}</span>' if note else ""
    return f"<figcaption><b>{escape(title)}</b>{told}"


def _cut(marks: str) -> str:
    """What lies outside of the axes is not drawn."""
    wide, tall = WIDTH - LEFT - RIGHT + 8, HEIGHT - TOP - BOTTOM + 8
    at = f"{LEFT - 4} {TOP - 4} {wide} {tall}"
    return (
        f'<svg x="{LEFT - 4}" y="{TOP - 4}" width="{wide}" height="{tall}" '
        f'viewBox="{at}">{marks}</svg>'
    )


def _frame(words: str, inside: str, tall: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="{escape(words)}">{inside}</svg>'
    )


def _grid(across: Axis, up: Axis, x_name: str) -> str:
    rows = [
        f'<path class="grid" d="M{LEFT},{up.at(t):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{up.at(t) + 4:.1f}" text-anchor="end">{short(t)}</text>'
        for t in up.ticks()
    ]
    columns = [_tick(across.at(t), TOP, HEIGHT - BOTTOM, short(t)) for t in across.ticks()]
    name = (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_name)}</text>'
    )
    return "".join([*rows, *columns, name])


def _tick(x: float, top: float, bottom: float, text: str) -> str:
    label = f'<text x="{x:.1f}" y="{bottom + 15:.0f}" text-anchor="middle">{text}</text>'
    return f'<path class="grid" d="M{x:.1f},{top}V{bottom:.0f}"/>{label}'


def _marks(s: Series, across: Axis, up: Axis) -> str:
    places = [(across.at(x), up.at(y)) for x, y in s.points]
    if s.dots and s.mark is not None:
        parts = [_spot(s, x, y, 0.8) for x, y in places]
    elif s.dots:
        parts = [
            f'<circle class="{kind(s.style)}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'
            for x, y in places
        ]
    else:
        scales = s.scales or [1.0] * len(places)
        parts = [
            _spot(s, x, y, k)
            for (x, y), k in zip(places, scales, strict=True)
            if s.bars or len(places) == 1
        ]
    if not s.dots and len(places) > 1:
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<path class="line {kind(s.style)}{" thin" * s.thin}" d="{path}"/>')
    return "".join(parts)


def _labels(s: Series, every: Sequence[Series], across: Axis, up: Axis) -> str:
    """Beside each point, above or below it, whichever is farther from the other series' points
    nearby.
    """
    taken = [
        (across.at(x), up.at(y)) for other in every if other is not s for x, y in other.points
    ]
    parts = []
    places = [(across.at(x), up.at(y)) for x, y in s.points]
    for (x, y), label in (
        (place, label) for place, label in zip(places, s.labels, strict=False) if label
    ):
        wide = LETTER * len(label)
        near = [b for a, b in taken if abs(a - x) < wide + LETTER]
        down = max(
            (-5, 15), key=lambda down: min((abs(y + down - 5 - b) for b in near), default=0.0)
        )
        end = x + 6 + wide > WIDTH
        at = f'x="{x - 5:.1f}" text-anchor="end"' if end else f'x="{x + 5:.1f}"'
        parts.append(f'<text class="label" {at} y="{y + down:.1f}">{escape(label)}</text>')
    return "".join(parts)


def _band(s: Series, across: Axis, up: Axis) -> str:
    """The edges as a band, or as an interval where each point stands for itself."""
    if len(s.low) != len(s.points) or len(s.high) != len(s.points):
        return ""
    edges = [
        (across.at(x), up.at(a), up.at(b))
        for (x, _), a, b in zip(s.points, s.low, s.high, strict=True)
    ]
    if s.bars or len(edges) == 1:
        lines = "".join(f"M{x:.1f},{low:.1f}V{high:.1f}" for x, low, high in edges)
        return f'<path class="line interval {kind(s.style)}" d="{lines}"/>'
    there = [f"{x:.1f},{high:.1f}" for x, _, high in edges]
    back = [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(edges)]
    return f'<path class="band {kind(s.style)}" d="M{"L".join([*there, *back])}Z"/>'


def _spot(s: Series, x: float, y: float, scale: float = 1.0) -> str:
    """A mark whose shape differs where colours come again."""
    turn = s.style + s.style // STYLES if s.bars and isinstance(s.style, int) else 0
    shape = SPOTS[(turn if s.mark is None else s.mark) % len(SPOTS)]
    see_through = " dot" if s.dots else ""
    place = f"translate({x:.1f},{y:.1f}) scale({scale:g})"
    return f'<path class="spot {kind(s.style)}{see_through}" transform="{place}" d="M0,0{shape}"/>'


def _key(s: Series) -> str:
    mark = (
        '<circle class="{}" cx="14" cy="6" r="3"/>'
        if s.dots
        else '<path class="line {}" d="M0,6H28"/>'
    )
    if s.dots and s.mark is not None:
        mark = ""
    spot = _spot(s, 14, 6) if s.bars or not mark else ""
    return (
        f'<svg class="mark" viewBox="0 0 28 12" '
        f'aria-hidden="true">{mark.format(kind(s.style))}{spot}</svg>'
    )
