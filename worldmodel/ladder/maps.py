"""Maps of numbers over a plane, as SVG figures."""

from __future__ import annotations

from html import escape

import numpy as np

SIDE = 250  # of a map, in units of its picture


def plot_map(title: str, values: np.ndarray, note: str = "") -> str:
    """A figure of numbers (rows,columns), the darker the higher; NaN leaves a gap."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    size = SIDE / max(values.shape)
    cells = []
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        cells.append(
            f'<rect class="cell" x="{column * size:.1f}" y="{row * size:.1f}" '
            f'width="{size:.1f}" height="{size:.1f}" opacity="{0.06 + 0.94 * share:.2f}"/>'
        )
    description = f"{title}: from {low:.3g} to {high:.3g}"
    inside = f'<span class="note">{escape(note)}</span>' if note else ""
    return (
        f'<figure class="plot map"><figcaption><b>{escape(title)}</b>{inside}</figcaption>'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(description)}">'
        f"{''.join(cells)}</svg></figure>"
    )
