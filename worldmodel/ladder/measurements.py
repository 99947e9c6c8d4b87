"""Measurements of the lessons, kept as JSON beside the page, so that none is made twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.errors import escape_control, exit_code_of
from worldmodel.evaluation.report.reported_run import DAMAGE_ERRORS
from worldmodel.evaluation.results import to_plain, write_result
from worldmodel.ladder.lesson import Lesson, Outcome, Panel, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.statements import join_words, state_absence
from worldmodel.system.files import read_json

MAX_BYTES = 1 << 26
FORMAT = 3  # of the results; those of another are measured again


log = logging.getLogger(__name__)


@dataclass
class Failures:
    """What failed in the lessons: a line for the page, and the exit code of the first."""

    exit_code: int = 0

    def record(self, error: Exception) -> str:
        """The line for the page. A bug costs its own lesson alone; its traceback is logged."""
        code = exit_code_of(error)
        if code is None:
            log.error("a lesson failed", exc_info=error)
        self.exit_code = self.exit_code or code or 1
        said = escape_control(str(error).strip())[:300] or "no message"
        said = said.rstrip(".")
        return state_absence(said if code else f"{type(error).__name__}: {said}")


def measure_lesson(
    lesson: Lesson, material: Material, folder: Path, failures: Failures
) -> Outcome:
    """What a lesson says and shows, or why it cannot."""
    if lesson.state_only and not material.study.from_state:
        return state_absence("it needs the state, so run the ladder without --obs pixels")
    labels = lesson.list_labels(material.study)
    missing = [label for label in labels if not material.runs.get(label)]
    if missing and (lesson.needs_all or missing == labels):
        return state_absence(f"the trainings of {join_words(missing)} are not done")
    try:
        results = _measure_or_read(lesson, material, labels, folder)
        return Panel(lesson.summarize(results), lesson.describe(results), lesson.draw(results))
    except Exception as error:  # of whatever kind: the other lessons go on
        return failures.record(error)


def _measure_or_read(
    lesson: Lesson, material: Material, labels: Sequence[str], folder: Path
) -> Results:
    """The results of a lesson, which are read where they were measured on the same runs."""
    source = [str(path) for label in labels for path in material.runs.get(label, ())]
    file = folder / f"{lesson.name}.json"
    kept = read_measurement(file, source)
    if kept is not None:
        return kept
    results = to_plain(lesson.measure(material))
    write_result(file, {"format": FORMAT, "source": source, "results": results})
    return results


def read_measurement(file: Path, source: Sequence[str]) -> Any:
    """The results in a file if they were measured on these runs; otherwise None."""
    try:
        found = read_json(file, MAX_BYTES)
        is_same = found["source"] == list(source) and found.get("format") == FORMAT
        return found["results"] if is_same else None
    except (OSError, *DAMAGE_ERRORS):
        return None
