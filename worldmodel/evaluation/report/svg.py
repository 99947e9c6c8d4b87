"""Plots as SVG elements: lines with bands, dots, and bars; style.css holds their colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 60, 24, 10, 40
MARGIN = 10  # between the axes and marks at their ends
LETTER_WIDTH = 7.0  # of an average letter
MAX_POINTS = 200
STYLES = 6  # colours and dashes in style.css
MEAN, REFERENCES = "mean", ("r0", "r1", "r2", "r3", "r4")  # styles by name instead of number
# SVG paths of marks, for lines that may consist of single points.
MARK_SHAPES = (
    "m-3.4,0a3.4,3.4 0 1,0 6.8,0a3.4,3.4 0 1,0 -6.8,0",
    "m-3.2,-3.2h6.4v6.4h-6.4z",
    "m0,-4.5l4.2,7.5h-8.4z",
    "m0,-4.6l4.6,4.6l-4.6,4.6l-4.6,-4.6z",
    "m0,4.5l4.2,-7.5h-8.4z",
)
LOG_SPAN = 30.0  # positive numbers that span more than this factor get a logarithmic axis

Point = tuple[float, float]


@dataclass
class Series:
    """A line, or `dots`, with a band between `low` and `high`.

    With `intervals`, each point has a mark, enlarged by `scales`, and its own interval instead of
    a band. `labels` stand beside the points. `mark` is the index of the dots' shape.
    """

    name: str
    points: list[Point]
    style: int | str = 0
    dots: bool = False
    thin: bool = False
    intervals: bool = False
    mark: int | None = None
    in_legend: bool = True
    scales: Sequence[float] = ()
    labels: Sequence[str] = ()
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


class Axis:
    """Maps numbers to positions between `start` and `end`."""

    def __init__(self, numbers: Sequence[float], start: float, end: float, log: bool = False):
        low, high = min(numbers), max(numbers)
        self.log = log and low > 0
        if self.log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-9 * max(1.0, abs(high)):
            room = 0.5 if self.log else 0.5 * max(1.0, 0.1 * abs(high))
            low, high = low - room, high + room
        self.low, self.high, self.start, self.end = low, high, start, end

    def position(self, x: float) -> float:
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
            return within if len(within) > 1 else _list_round_numbers(10**self.low, 10**self.high)
        return _list_round_numbers(self.low, self.high)


def _list_round_numbers(low: float, high: float) -> list[float]:
    """Round numbers at equal distances, for ticks."""
    rough = (high - low) / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def get_style_classes(style: int | str) -> str:
    """CSS classes of a style; numbers below STYLES squared give distinct colour and dash."""
    if isinstance(style, str):
        return style
    return f"c{style % STYLES} d{(style + style // STYLES) % STYLES}"


def format_tick(x: float) -> str:
    """A number as a tick label: 40000 -> 40k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= 10 * size or (abs(x) >= size and x % (size / 10) == 0):
            return f"{x / size:.4g}{letter}"
    return f"{x:.3g}"


def thin_points(points: list[Point]) -> list[Point]:
    """Average neighbours, so that a long run stays a small file."""
    group = math.ceil(len(points) / MAX_POINTS)
    parts = [points[i : i + group] for i in range(0, len(points), max(1, group))]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in parts
    ]


def plot_lines(
    title: str,
    series: Sequence[Series],
    x_name: str,
    log: bool = False,
    base: float | None = None,
    floor: float | None = None,
    log_x: bool = False,
    note: str = "",
    y_name: str = "",
    x_labels: Mapping[float, str] | None = None,
    span: Sequence[float] = (),
) -> str:
    """A figure with title, `note`, legend and a text description.

    `base` and `span` are always inside the y axis. Points below `floor` are clipped, and the note
    says so. `x_labels` stand at their places instead of round numbers.
    """
    series = [s for s in series if s.points]
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for y in [*(y for _, y in s.points), *s.low, *s.high]]
    if not ys:
        return ""
    steep = log and min(ys) > 0 and max(ys) / min(ys) > LOG_SPAN
    shown = [*ys, min(ys) if base is None else base, *span]
    if floor is not None:
        shown = [max(y, floor) for y in shown]
    room = MARGIN if any(s.intervals or s.dots for s in series) else 0
    across = Axis(xs, LEFT + room, WIDTH - RIGHT - room, log_x)
    up = Axis(shown, HEIGHT - BOTTOM - room, TOP + room, steep)
    # Labels come first, so that lines are drawn over them.
    marks = "".join(_draw_labels(s, series, across, up) for s in series)
    marks += "".join(_draw_band(s, across, up) + _draw_series(s, across, up) for s in series)
    ends = "; ".join(f"{s.name} ends at {s.points[-1][1]:.3g}" for s in series if not s.dots)
    description = f"{title} over {x_name}. {ends}."
    note = "; ".join(filter(None, (note, _describe_clipped(series, floor))))
    legend = [s for s in series if s.in_legend] if len(series) > 1 else []
    keys = "".join(
        f'<span class="entry">{_draw_legend_mark(s)}{escape(_format_legend_name(s, floor))}</span>'
        for s in legend
    )
    if y_name:
        keys += f'<span class="note">\N{UPWARDS ARROW} {escape(y_name)}</span>'
    grid = _draw_grid(across, up, x_name, x_labels)
    inside = grid + (marks if floor is None else _clip_marks(marks))
    return (
        f"<figure "
        f'class="plot">{_render_caption(title, note)}{keys}</figcaption>{_render_svg(description, inside)}</figure>'
    )


def _describe_clipped(series: Sequence[Series], floor: float | None) -> str:
    """The lowest clipped value and the name of its line."""
    least, name = min((y, s.name) for s in series for _, y in s.points)
    if floor is None or least >= floor:
        return ""
    return f"{name} goes down to {least:.3g}"


def _format_legend_name(s: Series, floor: float | None) -> str:
    """A name in the legend, which says so if the whole line is clipped."""
    hidden = floor is not None and all(y < floor for _, y in s.points)
    return f"{s.name} (all below {floor:g})" if hidden else s.name


def plot_bars(
    title: str,
    rows: Sequence[tuple[str, float, float, float]],
    styles: Sequence[int | str] = (),
    note: str = "",
    dots: Sequence[Sequence[float]] = (),
    levels: Mapping[str, float] | None = None,
    form: str = ".4g",
) -> str:
    """Horizontal bars, one per row (name, value, low, high); a line shows the interval.

    `dots` are numbers to mark in each row, `levels` numbers to mark across all rows, and `form`
    says how values are written.
    """
    levels = levels or {}
    tall = 38 * len(rows) + 34
    numbers = [*(x for _, *numbers in rows for x in numbers), *levels.values()]
    axis = Axis([0.0, *numbers], 16, WIDTH - RIGHT)
    parts = [_draw_tick(axis.position(t), TOP, tall - 24, format_tick(t)) for t in axis.ticks()]
    for i, (name, value, low, high) in enumerate(rows):
        y = TOP + 38 * i
        begin, width = (
            min(axis.position(0), axis.position(value)),
            abs(axis.position(value) - axis.position(0)),
        )
        said = f"{escape(name)}: {value:{form}}"
        parts.append(f'<text class="name" x="16" y="{y + 12}">{said}</text>')
        own = f" {get_style_classes(styles[i])}" if styles else ""
        parts.append(
            f'<rect class="bar{own}" x="{begin:.1f}" y="{y + 17}" width="{width:.1f}" '
            f'height="14"/>'
        )
        parts.append(
            f'<path class="whisker" d="M{axis.position(low):.1f},{y + 24}H{axis.position(high):.1f}"/>'
        )
        parts += [
            f'<circle class="seed" cx="{axis.position(x):.1f}" cy="{y + 24}" r="3.4"/>'
            for x in (dots[i] if dots else ())
        ]
    for i, level in enumerate(levels.values()):
        at = axis.position(level)
        parts.append(f'<path class="line {REFERENCES[i]}" d="M{at:.1f},{TOP}V{tall - 24}"/>')
    keys = "".join(
        f'<span class="entry">{_draw_legend_mark(Series(name, [], REFERENCES[i]))}{escape(name)} '
        f"{level:{form}}</span>"
        for i, (name, level) in enumerate(levels.items())
    )
    description = f"{title}: " + "; ".join(f"{name} {value:{form}}" for name, value, *_ in rows)
    return (
        f"<figure "
        f'class="plot">{_render_caption(title, note)}{keys}</figcaption>{_render_svg(description, "".join(parts), tall)}</figure>'
    )


def _render_caption(title: str, note: str) -> str:
    note = f'<span class="note">{escape(note)}</span>' if note else ""
    return f"<figcaption><b>{escape(title)}</b>{note}"


def _clip_marks(marks: str) -> str:
    """Hide what lies outside the axes."""
    wide, tall = WIDTH - LEFT - RIGHT + 8, HEIGHT - TOP - BOTTOM + 8
    at = f"{LEFT - 4} {TOP - 4} {wide} {tall}"
    return (
        f'<svg x="{LEFT - 4}" y="{TOP - 4}" width="{wide}" height="{tall}" '
        f'viewBox="{at}">{marks}</svg>'
    )


def _render_svg(description: str, inside: str, tall: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="{escape(description)}">{inside}</svg>'


def _draw_grid(
    across: Axis, up: Axis, x_name: str, x_labels: Mapping[float, str] | None = None
) -> str:
    rows = [
        f'<path class="grid" d="M{LEFT},{up.position(t):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{up.position(t) + 4:.1f}" text-anchor="end">{format_tick(t)}</text>'
        for t in up.ticks()
    ]
    labels = x_labels or {t: format_tick(t) for t in across.ticks()}
    columns = [
        _draw_tick(across.position(t), TOP, HEIGHT - BOTTOM, escape(text))
        for t, text in labels.items()
    ]
    name = (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_name)}</text>'
    )
    return "".join([*rows, *columns, name])


def _draw_tick(x: float, top: float, bottom: float, text: str) -> str:
    label = f'<text x="{x:.1f}" y="{bottom + 15:.0f}" text-anchor="middle">{text}</text>'
    return f'<path class="grid" d="M{x:.1f},{top}V{bottom:.0f}"/>{label}'


def _draw_series(s: Series, across: Axis, up: Axis) -> str:
    places = [(across.position(x), up.position(y)) for x, y in s.points]
    if s.dots and s.mark is not None:
        parts = [_draw_mark(s, x, y, 0.8) for x, y in places]
    elif s.dots:
        parts = [
            f'<circle class="{get_style_classes(s.style)}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'
            for x, y in places
        ]
    else:
        scales = s.scales or [1.0] * len(places)
        parts = [
            _draw_mark(s, x, y, k)
            for (x, y), k in zip(places, scales, strict=True)
            if s.intervals or len(places) == 1
        ]
    if not s.dots and len(places) > 1:
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<path class="line {get_style_classes(s.style)}{" thin" * s.thin}" d="{path}"/>'
        )
    return "".join(parts)


def _draw_labels(s: Series, every: Sequence[Series], across: Axis, up: Axis) -> str:
    """Labels above or below their points, whichever is farther from nearby points of others."""
    taken = [
        (across.position(x), up.position(y))
        for other in every
        if other is not s
        for x, y in other.points
    ]
    parts = []
    places = [(across.position(x), up.position(y)) for x, y in s.points]
    for (x, y), label in (
        (place, label) for place, label in zip(places, s.labels, strict=False) if label
    ):
        wide = LETTER_WIDTH * len(label)
        near = [b for a, b in taken if abs(a - x) < wide + LETTER_WIDTH]
        down = max(
            (-5, 15), key=lambda down: min((abs(y + down - 5 - b) for b in near), default=0.0)
        )
        end = x + 6 + wide > WIDTH
        at = f'x="{x - 5:.1f}" text-anchor="end"' if end else f'x="{x + 5:.1f}"'
        parts.append(f'<text class="label" {at} y="{y + down:.1f}">{escape(label)}</text>')
    return "".join(parts)


def _draw_band(s: Series, across: Axis, up: Axis) -> str:
    """The band between `low` and `high`, or an interval at each point."""
    if len(s.low) != len(s.points) or len(s.high) != len(s.points):
        return ""
    edges = [
        (across.position(x), up.position(a), up.position(b))
        for (x, _), a, b in zip(s.points, s.low, s.high, strict=True)
    ]
    if s.intervals or len(edges) == 1:
        plot_lines = "".join(f"M{x:.1f},{low:.1f}V{high:.1f}" for x, low, high in edges)
        return f'<path class="line interval {get_style_classes(s.style)}" d="{plot_lines}"/>'
    there = [f"{x:.1f},{high:.1f}" for x, _, high in edges]
    back = [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(edges)]
    return f'<path class="band {get_style_classes(s.style)}" d="M{"L".join([*there, *back])}Z"/>'


def _draw_mark(s: Series, x: float, y: float, scale: float = 1.0) -> str:
    """A mark; where colours repeat, its shape differs."""
    turn = s.style + s.style // STYLES if s.intervals and isinstance(s.style, int) else 0
    shape = MARK_SHAPES[(turn if s.mark is None else s.mark) % len(MARK_SHAPES)]
    see_through = " dot" if s.dots else ""
    place = f"translate({x:.1f},{y:.1f}) scale({scale:g})"
    return f'<path class="spot {get_style_classes(s.style)}{see_through}" transform="{place}" d="M0,0{shape}"/>'


def _draw_legend_mark(s: Series) -> str:
    mark = (
        '<circle class="{}" cx="14" cy="6" r="3"/>'
        if s.dots
        else '<path class="line {}" d="M0,6H28"/>'
    )
    if s.dots and s.mark is not None:
        mark = ""
    spot = _draw_mark(s, 14, 6) if s.intervals or not mark else ""
    return (
        f'<svg class="mark" viewBox="0 0 28 12" '
        f'aria-hidden="true">{mark.format(get_style_classes(s.style))}{spot}</svg>'
    )
