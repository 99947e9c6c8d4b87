"""A lesson: what the lecture says, how it is measured, and how the page shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldmodel.ladder.trainings import Study

Results = dict[str, Any]  # what JSON holds


@dataclass(frozen=True)
class Panel:
    """What was measured in a lesson: a sentence, more lines of text, and figures in HTML."""

    summary: str
    measured: str
    figures: str


Outcome = Panel | str  # or why there is none


@dataclass(frozen=True)
class Lesson:
    """One panel of the page. Its texts are made of the results alone.

    `summarize` makes one sentence: the main figures and whether they agree with the lecture.
    `describe` makes all findings, one a line. The sentence claims no more than they do.
    """

    name: str
    title: str
    lecture: str  # what follows "The lecture says"
    list_labels: Callable[[Study], list[str]]  # of the trainings that it needs
    measure: Callable[[Any], Results]  # of the Material, which imports too much for here
    summarize: Callable[[Results], str]
    describe: Callable[[Results], str]
    draw: Callable[[Results], str]  # figures, as HTML
    state_only: bool = False
    needs_all: bool = True  # its trainings; otherwise some are enough
    task: str | None = None  # None: that of the study
