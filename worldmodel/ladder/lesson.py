"""A lesson: what the lecture says, how it is measured, and how the page shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldmodel.ladder.trainings import Study

Results = dict[str, Any]  # what JSON holds


@dataclass(frozen=True)
class Panel:
    """What was measured in a lesson, as lines of text and as figures in HTML."""

    measured: str
    figures: str


Outcome = Panel | str  # or why there is none


@dataclass(frozen=True)
class Lesson:
    """One panel of the page. `describe` makes its findings, one a line, of the results alone."""

    name: str
    title: str
    lecture: str
    list_labels: Callable[[Study], list[str]]  # of the trainings that it needs
    measure: Callable[[Any], Results]  # of the Material, which imports too much for here
    describe: Callable[[Results], str]
    draw: Callable[[Results], str]  # figures, as HTML
    state_only: bool = False
    needs_all: bool = True  # its trainings; otherwise some are enough
