"""One style for all plots: Okabe and Ito's colours, a faint grid, no display.

Every title says which direction is better.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from worldmodel.system.files import replace_file

# Distinguishable with every kind of colour vision, in this order. Lines also differ in dashes or
# markers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")


def load_pyplot() -> Any:
    """matplotlib.pyplot with this project's style, drawing into memory."""
    with _leave_directory():
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


@contextlib.contextmanager
def _leave_directory() -> Iterator[None]:
    """Leave the working directory for that of this file: matplotlib reads a matplotlibrc there,
    and it may be a run of anyone's.
    """
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(Path(__file__).parent)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def save_figure(figure: Any, target: Path, title: str = "") -> Path:
    """Lay out the figure, write it and close it."""
    if title:
        figure.suptitle(title)
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    figure.savefig(content, format=target.suffix[1:])
    replace_file(target, content.getvalue())
    load_pyplot().close(figure)
    return target


def get_line_style(number: int) -> dict[str, Any]:
    """Colour, line style and marker of the n-th of several lines."""
    return {
        "color": COLORS[number % len(COLORS)],
        "ls": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def scale_markers(candidates: Iterable[int | None]) -> dict[int, float]:
    """The marker size of each number of candidates, relative to drivers without candidates."""
    return {
        count: 1.0 + 0.4 * rank for rank, count in enumerate(sorted({c for c in candidates if c}))
    }


def describe_markers(sizes: Mapping[int, float]) -> str:
    """An addition to an axis label that explains markers of different sizes."""
    return (
        f"; larger marks have more candidates: {', '.join(map(str, sizes))}"
        if len(sizes) > 1
        else ""
    )
