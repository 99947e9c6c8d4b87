"""Measurements of the lessons, kept as JSON beside the page, so that none is made twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.errors import RunError
from worldmodel.evaluation.report.reported_run import DAMAGE_ERRORS
from worldmodel.evaluation.results import to_plain, write_result
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.system.files import read_json

MAX_BYTES = 1 << 26


def measure_lesson(lesson: Lesson, material: Material, folder: Path) -> Results | str:
    """The results of a lesson, or why there are none."""
    if lesson.state_only and not material.study.from_state:
        return "It is measured from state: run the ladder without --obs pixels."
    labels = lesson.list_labels(material.study)
    missing = [label for label in labels if not material.runs.get(label)]
    if missing:
        return f"These trainings are not done: {', '.join(missing)}."
    source = [str(path) for label in labels for path in material.runs[label]]
    file = folder / f"{lesson.name}.json"
    kept = read_measurement(file, source)
    if kept is not None:
        return kept
    try:
        results = to_plain(lesson.measure(material))
    except RunError as error:
        return f"It cannot be measured: {error}."
    write_result(file, {"source": source, "results": results})
    return results


def read_measurement(file: Path, source: Sequence[str]) -> Any:
    """The results in a file if they were measured on these runs; otherwise None."""
    try:
        found = read_json(file, MAX_BYTES)
        return found["results"] if found["source"] == list(source) else None
    except (OSError, *DAMAGE_ERRORS):
        return None
