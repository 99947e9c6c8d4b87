"""Maps of numbers over a plane, as SVG figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

SIDE = 250  # of a map, in units of its picture
LEFT, BOTTOM, RIGHT, TOP = 42, 24, 78, 8  # room around it, for the axes and the colour bar
BAR, SHADES = 12, 24  # width and steps of the colour bar
FAINT = 0.06  # opacity of the lowest number


def plot_map(
    title: str,
    values: np.ndarray,
    edge: float,
    note: str = "",
    unit: str = "",
    dots: np.ndarray | None = None,
    names: Mapping[float, str] | None = None,
) -> str:
    """A figure of numbers (rows,columns) over x and y from -edge to edge, the darker the higher.

    NaN leaves a gap, and `dots` marks cells. A colour bar shows the range, or a legend the `names`
    of the numbers, if these are kinds.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    size = SIDE / max(values.shape)

    def shade(value: float) -> float:
        return FAINT + (1 - FAINT) * ((value - low) / (high - low) if high > low else 0.5)

    cells = []
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        x, y = LEFT + column * size, TOP + row * size
        cells.append(
            f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" '
            f'width="{size:.1f}" height="{size:.1f}" opacity="{shade(value):.2f}"/>'
        )
        if dots is not None and dots[row, column]:
            cells.append(
                f'<circle class="seed" cx="{x + size / 2:.1f}" cy="{y + size / 2:.1f}" r="1.6"/>'
            )
    keys = "".join(
        f'<span class="entry"><svg class="mark" viewBox="0 0 28 12" aria-hidden="true">'
        f'<rect class="cell" width="28" height="12" opacity="{shade(value):.2f}"/></svg>'
        f"{escape(name)}</span>"
        for value, name in (names or {}).items()
    )
    bar = "" if names else _draw_bar(low, high, [shade(x) for x in np.linspace(low, high, SHADES)])
    unit = f'<span class="note">colour, linear: {escape(unit)}</span>' if unit else ""
    inside = f'<span class="note">{escape(note)}</span>' if note else ""
    description = f"{title}: from {low:.3g} to {high:.3g}"
    wide, tall = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
    return (
        f'<figure class="plot map"><figcaption><b>{escape(title)}</b>{inside}{keys}{unit}'
        f'</figcaption><svg viewBox="0 0 {wide} {tall}" role="img" '
        f'aria-label="{escape(description)}">{"".join(cells)}{_draw_axes(edge)}{bar}</svg></figure>'
    )


def _draw_bar(low: float, high: float, shades: Sequence[float]) -> str:
    """The colour bar at the right, with its two ends as numbers."""
    x, step = LEFT + SIDE + 8, SIDE / len(shades)
    parts = [
        f'<rect class="cell" x="{x}" y="{TOP + SIDE - (i + 1) * step:.1f}" width="{BAR}" '
        f'height="{step:.1f}" opacity="{shade:.2f}"/>'
        for i, shade in enumerate(shades)
    ]
    for y, value in ((TOP + 10, high), (TOP + SIDE, low)):
        parts.append(f'<text x="{x + BAR + 2}" y="{y}">{value:.2g}</text>')
    return "".join(parts)


def _draw_axes(edge: float) -> str:
    """The ends of both axes, and their names."""
    right, bottom = LEFT + SIDE, TOP + SIDE + 16
    words = (
        (LEFT, bottom, "start", f"{-edge:g}"),
        (LEFT + SIDE / 2, bottom, "middle", "x"),
        (right, bottom, "end", f"{edge:g}"),
        (LEFT - 5, TOP + SIDE, "end", f"{-edge:g}"),
        (LEFT - 5, TOP + SIDE / 2 + 4, "end", "y"),
        (LEFT - 5, TOP + 10, "end", f"{edge:g}"),
    )
    return "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in words
    )
