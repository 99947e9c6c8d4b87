"""The ladder's page: one HTML file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from worldmodel.config.preset_files import describe_presets
from worldmodel.evaluation.report.html import (
    render_code,
    render_details,
    render_list,
    render_paragraph,
    render_table,
)
from worldmodel.evaluation.report.page import read_stylesheet
from worldmodel.ladder.colours import make_stylesheet
from worldmodel.ladder.lesson import Lesson, Outcome
from worldmodel.ladder.statements import describe_count
from worldmodel.ladder.trainings import Study
from worldmodel.system.files import replace_file

OWN_STYLE = """
.cell { fill: var(--c0); }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.plots:has(.map) { align-items: end; grid-template-columns:
  repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.plots > .scroll { grid-column: 1 / -1; }
.line.r0, .line.r1 { stroke-width: 1.4; }
@media print { details::details-content { content-visibility: visible; } }
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
    about = (
        f"Each rung is an ordinary training, with {describe_count(len(study.seeds), 'seed')} "
        "unless a plot says otherwise. Every lesson has a sentence for what the lecture says and "
        "one for what was measured, which is made of the numbers of this page. It judges what the "
        "lecture expects, not its reasons. A difference is called clear beyond two standard "
        "errors over the seeds, or beyond 5 % where there is one seed."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{read_stylesheet()}'
        f"{OWN_STYLE}{make_stylesheet()}</style></head><body>"
        f'<a class="skip" href="#main">to the lessons</a><header><h1>{escape(title)}</h1>'
        f"{render_paragraph(about)}{render_code(page.command)}{failed}"
        f"{render_rungs(study)}</header>"
        f'<nav aria-label="lessons"><ul>{links}</ul></nav>'
        f'<main id="main">{body}</main></body></html>\n'
    )


def describe_rungs(study: Study) -> dict[str, str]:
    """What each rung is, in the words of its preset."""
    said = {name: line for group in describe_presets().values() for name, line in group.items()}
    return {rung: said[rung] for rung in study.rungs}


def render_rungs(study: Study) -> str:
    """The rungs and their meanings, not folded, so that a picture of the page shows them too."""
    rows = list(describe_rungs(study).items())
    return f"<section>{render_table('What the rungs are', ('preset', 'rung'), rows)}</section>"


def render_lesson(lesson: Lesson, outcome: Outcome) -> str:
    """A sentence of the lecture, one of what was measured, the folded rest, and the figures."""
    said = f'<p class="said"><b>The lecture says</b> {escape(lesson.lecture)}</p>'
    if isinstance(outcome, str):
        inside = said + render_finding(outcome, "said missing")
    else:
        lines = render_list(outcome.measured.split("\n"), "findings")
        inside = (
            f"{said}{render_finding(outcome.summary, 'said')}"
            f'{render_details("More figures and caveats", lines)}<div class="plots">'
            f"{outcome.figures}</div>"
        )
    return (
        f'<section id="{lesson.name}" aria-labelledby="h-{lesson.name}">'
        f'<h2 id="h-{lesson.name}">{escape(lesson.title)}</h2>{inside}</section>'
    )


def render_finding(sentence: str, kind: str) -> str:
    """The sentence of what was measured, with its verdict in bold."""
    verdict, colon, figures = sentence.partition(":")
    return f'<p class="{kind}"><b>{escape(verdict)}</b>{colon}{escape(figures)}</p>'
