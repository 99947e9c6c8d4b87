"""The ladder's page: one HTML file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from worldmodel.config.preset_files import describe_presets
from worldmodel.evaluation.report.html import (
    render_code,
    render_list,
    render_paragraph,
    render_terms,
)
from worldmodel.evaluation.report.page import read_stylesheet
from worldmodel.ladder.lesson import Lesson, Outcome
from worldmodel.ladder.trainings import Study
from worldmodel.system.files import replace_file

OWN_STYLE = """
.cell { fill: var(--c0); }
.map > svg { max-width: 17rem; }
.said b { display: inline-block; min-width: 6.5rem; }
"""


@dataclass(frozen=True)
class Page:
    """What the page shows: the study, its command, the lessons, and the trainings that failed."""

    study: Study
    command: str
    found: Mapping[Lesson, Outcome]
    failed: Sequence[str]  # a line for each


def write_page(target: Path, page: Page) -> Path:
    replace_file(target, render_page(page).encode("utf-8", "replace"))
    return target


def render_page(page: Page) -> str:
    study, found = page.study, page.found
    title = f"The ladder of model-based RL: {study.task} from {study.obs}"
    links = "".join(f'<li><a href="#{x.name}">{escape(x.title)}</a></li>' for x in found)
    body = "".join(render_lesson(lesson, outcome) for lesson, outcome in found.items())
    failed = render_list(page.failed, "missing") if page.failed else ""
    seeds = "one seed" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
    about = (
        f"Each rung is an ordinary training, with {seeds}. "
        "The second sentence of each lesson is made of the numbers measured here, whether or not "
        "they agree with the lecture."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{read_stylesheet()}'
        f"{OWN_STYLE}</style></head><body>"
        f'<a class="skip" href="#main">to the lessons</a><header><h1>{escape(title)}</h1>'
        f"{render_paragraph(about)}{render_code(page.command)}{failed}"
        f"{render_terms('What the rungs are', describe_rungs(study))}</header>"
        f'<nav aria-label="lessons"><ul>{links}</ul></nav>'
        f'<main id="main">{body}</main></body></html>\n'
    )


def describe_rungs(study: Study) -> dict[str, str]:
    """What each rung is, in the words of its preset."""
    said = {name: line for group in describe_presets().values() for name, line in group.items()}
    return {rung: said[rung] for rung in study.rungs}


def render_lesson(lesson: Lesson, outcome: Outcome) -> str:
    """What the lecture says, what was measured, and the figures."""
    said = f'<p class="said"><b>The lecture</b> {escape(lesson.lecture)}</p>'
    if isinstance(outcome, str):
        inside = said + render_paragraph(outcome, "missing")
    else:
        measured = f'<p class="said"><b>Measured</b> {escape(outcome.measured)}</p>'
        inside = f'{said}{measured}<div class="plots">{outcome.figures}</div>'
    return (
        f'<section id="{lesson.name}" aria-labelledby="h-{lesson.name}">'
        f'<h2 id="h-{lesson.name}">{escape(lesson.title)}</h2>{inside}</section>'
    )
