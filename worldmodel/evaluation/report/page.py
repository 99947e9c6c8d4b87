"""The whole report: one HTML file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from worldmodel.evaluation.report import evaluation_section, learning_section, provenance_section
from worldmodel.evaluation.report.findings import render_findings
from worldmodel.evaluation.report.html import (
    PictureEmbedder,
    render_code,
    render_details,
    render_paragraph,
)
from worldmodel.evaluation.report.provenance_section import list_missing_commands
from worldmodel.evaluation.report.reported_run import DAMAGE_ERRORS, ReportedRun, read_runs
from worldmodel.system.console import Progress
from worldmodel.system.files import replace_file

STYLESHEET = Path(__file__).with_name("style.css")
Section = tuple[str, str, Callable[[], str]]  # its id, its title, its renderer


def write_report(paths: Sequence[Path], target: Path) -> tuple[Path, list[str]]:
    """Write the report on one run or several seeds; return its path and what is missing."""
    runs = read_runs(list(paths))
    text, missing = render_page(runs, quiet=False)
    target.parent.mkdir(exist_ok=True)
    # A path or a damaged file may hold characters that UTF-8 cannot encode.
    replace_file(target, text.encode("utf-8", "replace"))
    return target, missing


def render_page(runs: Sequence[ReportedRun], quiet: bool = True) -> tuple[str, list[str]]:
    missing = [line for run in runs for line in run.log_warnings]
    notes = "".join(render_paragraph(line, "missing") for line in missing)
    pictures = PictureEmbedder()
    parts: list[Section] = [
        ("scores", "Learning curve", lambda: learning_section.render_scores(runs, missing)),
        (
            "returns",
            "Returns on new episodes",
            lambda: evaluation_section.render_returns(runs, missing),
        ),
        (
            "model",
            "How good the world model is",
            lambda: evaluation_section.render_quality(runs, missing),
        ),
        (
            "state",
            "Simulator state in the latent",
            lambda: evaluation_section.render_state_probe(runs, missing),
        ),
        (
            "planners",
            "Actor and planners compared",
            lambda: evaluation_section.render_drivers(runs, missing),
        ),
        ("videos", "Videos", lambda: evaluation_section.render_videos(runs, pictures, missing)),
        (
            "imagination",
            "Imagined rollouts in detail",
            lambda: evaluation_section.render_stills(runs, pictures, missing),
        ),
        ("losses", "Losses over time", lambda: learning_section.render_losses(runs, missing)),
        ("configuration", "Configuration", lambda: learning_section.render_configuration(runs)),
        (
            "environment",
            "Environment and versions",
            lambda: provenance_section.render_environment(runs),
        ),
        ("reproduce", "How to reproduce it", lambda: provenance_section.render_reproduction(runs)),
    ]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in parts)
    body, bar = [], Progress(len(parts), "report", quiet=quiet)
    for number, part in enumerate(parts):
        bar.update(number, part[1])
        body.append(render_section(part, missing))
    bar.update(len(parts))
    bar.close()
    c, first = (
        runs[0].config,
        f"{render_summary(runs)}{render_findings(runs)}{notes}{render_missing_commands(runs)}",
    )
    title = f"{c.env.task}, {c.run.name}"
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><link '
        f'rel="icon" href="data:,">'
        f"<style>{read_stylesheet()}</style></head>"
        f'<body><a class="skip" href="#main">to the '
        f"report</a><header><h1>{escape(title)}</h1>{first}"
        f'</header><nav aria-label="parts of this report"><ul>{links}</ul></nav><main '
        f'id="main">{"".join(body)}</main>'
        "</body></html>\n"
    )
    return text, missing


def read_stylesheet() -> str:
    return STYLESHEET.read_text(encoding="utf-8")


def render_section(part: Section, missing: list[str]) -> str:
    """One section of the page; a damaged file costs this section only."""
    name, title, make = part
    try:
        inside = make()
    except DAMAGE_ERRORS as error:
        why = " ".join(str(error).split())[:100]
        missing.append(f"{title}: a file of this run is damaged ({type(error).__name__}: {why})")
        inside = render_paragraph(missing[-1], "missing")
    return (
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 '
        f'id="h-{name}">{title}</h2>{inside}</section>'
    )


def render_summary(runs: Sequence[ReportedRun]) -> str:
    """The first sentence: number of runs, frames, last scores, minutes."""
    finals = [line for run in runs if (line := find_last_score(run)) is not None]
    count = "one run" if len(runs) == 1 else f"{len(runs)} seeds"
    text = f"{count}, {max(run.frames for run in runs):,} environment frames"
    if finals and len(runs) > 1:  # for a single run the findings say it
        text += f"; last evaluation: {', '.join(f'{x:.1f}' for x in finals)}"
        text += f", mean {sum(finals) / len(finals):.1f}"
    minutes = [run.minutes for run in runs if run.minutes is not None]
    text += f"; {', '.join(f'{x:.0f}' for x in minutes)} minutes of training" if minutes else ""
    open_ = [run.name for run in runs if not run.done]
    unfinished = (
        render_paragraph(
            f"Not finished: {', '.join(open_)}. The results so far are shown.", "missing"
        )
        if open_
        else ""
    )
    return render_paragraph(text + ".") + unfinished


def render_missing_commands(runs: Sequence[ReportedRun]) -> str:
    """The commands for all missing results, in one block to copy."""
    lines = list_missing_commands(runs)
    return (
        render_details(
            f"To measure everything: {len(lines)} commands", render_code("\n".join(lines))
        )
        if lines
        else ""
    )


def find_last_score(run: ReportedRun) -> float | None:
    known = [x["eval/score"] for x in run.scores if "eval/score" in x]
    return known[-1] if known else None
