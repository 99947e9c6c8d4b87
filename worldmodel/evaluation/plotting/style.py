"""One style for all plots: no display, Okabe and Ito's colours, a faint grid. Every title says
which way is good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Apart for all kinds of colour vision, in this order. Lines also differ by their style or their
# marker.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")


def pyplot() -> Any:
    """matplotlib's, drawing into memory alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.titlesize": 10,
            "legend.fontsize": 7,
            "axes.labelsize": 8,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
        }
    )
    return pyplot


def save(figure: Any, target: Path, title: str = "") -> Path:
    """Lay the figure out where it does not do so itself, write it and let go of it."""
    if title:
        figure.suptitle(title)
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    pyplot().close(figure)
    return target


def kind(number: int) -> dict[str, Any]:
    """Colour, line style and marker of the n-th of several lines."""
    return {
        "color": COLORS[number % len(COLORS)],
        "ls": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def growing(candidates: Iterable[int | None]) -> dict[int, float]:
    """How large the mark of each number of candidates is, beside that of ways that have none."""
    return {
        count: 1.0 + 0.4 * rank for rank, count in enumerate(sorted({c for c in candidates if c}))
    }


def told(sizes: Mapping[int, float]) -> str:
    """What an axis says of marks that differ."""
    return (
        f"; larger marks have more candidates: {', '.join(map(str, sizes))}"
        if len(sizes) > 1
        else ""
    )
