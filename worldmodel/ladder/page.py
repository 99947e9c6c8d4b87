"""The ladder's page: one HTML file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from worldmodel.config import loading
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
from worldmodel.ladder.statements import describe_count, join_words
from worldmodel.ladder.trainings import FAST_FRAMES, POLICIES, ROOM, Study
from worldmodel.system.files import replace_file

WORDS = (
    ("step", "one action of the agent in the environment, not in its model"),
    ("return", "the sum of the rewards of an episode"),
    ("closing evaluation", "episodes after the training, without exploration noise"),
    (
        "expert",
        "a controller written by hand with the task's equations, where a task has one; its "
        "return is a level to compare with and no upper limit",
    ),
)
PENDULUM = (
    ("reward", "of the pendulum: 0 where it hangs, 1 where it stands, in between otherwise"),
    ("spinning", "a pendulum kept whirling by full force along its motion, never balanced"),
)
EPISODES = {"pendulum": 150, ROOM: 60}  # steps of an episode
ROOM_WORDS = (
    "the task of {}: a point moves from the left room through the door of a wall to a goal in the "
    "right room, and a carpet on the left adds noise to its steps"
)

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
        "one for what was measured, which is made of the numbers of this page. The verdict tests "
        "the predicted outcome, not the explanation. "
        f"{describe_clear(study)}{describe_budget(study)}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{read_stylesheet()}'
        f"{OWN_STYLE}{make_stylesheet()}</style></head><body>"
        f'<a class="skip" href="#main">to the lessons</a><header><h1>{escape(title)}</h1>'
        f"{render_paragraph(about)}{render_code(page.command)}{failed}"
        f"{render_rungs(study)}{render_words(study, found)}</header>"
        f'<nav aria-label="lessons"><ul>{links}</ul></nav>'
        f'<main id="main">{body}</main></body></html>\n'
    )


def describe_clear(study: Study) -> str:
    """When a difference is called clear."""
    one = "With one seed, clear means only more than 5 % apart; that may be chance."
    if len(study.seeds) == 1:
        return one
    return f"A difference is clear beyond two standard errors over the seeds. {one}"


def describe_budget(study: Study) -> str:
    """A warning where trainings are shorter than their presets, as a sentence after others."""
    count = study.frames or (FAST_FRAMES if study.fast else None)
    policies = [rung for rung in POLICIES if rung in study.rungs]
    if not policies or count is None or count >= loading.parse([policies[0]]).run.frames:
        return ""
    return (
        f" This run is short, with {describe_count(count, 'step')} for each rung. It probably "
        f"stops before policies ({join_words(policies)}) have learnt."
    )


def render_words(study: Study, found: Mapping[Lesson, Outcome]) -> str:
    """The words that lessons use without saying what they mean."""
    rows = [*WORDS, *(PENDULUM if study.task == "pendulum" else ())]
    if study.task in EPISODES and not any(word.startswith("--env.") for word in study.words):
        tasks = dict.fromkeys([study.task, *[ROOM] * study.from_state])
        said = join_words([f"{EPISODES[task]} steps of {task}" for task in tasks])
        rows.insert(1, ("episode", said))
    second = [lesson.title for lesson in found if lesson.task]
    if second and study.from_state:
        rows.append((ROOM, ROOM_WORDS.format(join_words([f'"{title}"' for title in second]))))
    return f"<section>{render_table('Words of the lessons', ('word', 'meaning'), rows)}</section>"


def describe_rungs(study: Study) -> dict[str, str]:
    """What each rung is, in the words of its preset."""
    said = {name: line for group in describe_presets().values() for name, line in group.items()}
    return {rung: said[rung] for rung in study.rungs}


def render_rungs(study: Study) -> str:
    """The rungs and their meanings, not folded, so that a picture of the page shows them too."""
    rows = list(describe_rungs(study).items())
    caption = "What the rungs are. Lessons call them by preset; the numbers are the lectures' own."
    return f"<section>{render_table(caption, ('preset', 'rung'), rows)}</section>"


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
